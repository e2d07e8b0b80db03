/*
 * The two ways in which libkvm has found pages, in C, timed: what the Rust
 * baselines are held against (benches/benches/baselines.rs). Our own text of
 * the algorithms, with what libkvm's _kvm_pt_find and _kvm_pa_bit_id pay for
 * besides: words counted one by one, divisions by a page size that is a
 * variable, a look whether a dump that was cut has the page.
 *
 * libkvm BITMAP RANGES QUERIES PAGE_SIZE: files of 64-bit little-endian words.
 * RANGES has pairs of physical addresses, first and behind the last, of whole
 * pages; bits count their pages one after the other. QUERIES are pages. Both
 * tables are built in a heap that nothing is freed from.
 * Then one command a line on standard input, "TABLE LOOP COUNT":
 *	hash|popcount build|dependent|independent COUNT
 * answered by "NANOSECONDS CHECKSUM". The hash table is built once;
 * "popcount build" builds anew, with a new copy of the bitmap.
 */

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ABSENT UINT64_MAX

static uint64_t *words, *ranges, *queries;
static unsigned page_size, page_shift;
static size_t nwords, nranges, nqueries;

/* --- hash table: 1024 lists of nodes, a malloc each, the newest first --- */

#define BUCKETS 1024

struct node {
	struct node *next;
	uint64_t pa;
	int64_t off;
};

static struct node *heads[BUCKETS];

/* FNV-1, 32 bits, of the address's 8 bytes. */
static unsigned
bucket(uint64_t pa)
{
	unsigned char bytes[sizeof(pa)];
	uint32_t h = 33554467;
	size_t i;

	memcpy(bytes, &pa, sizeof(pa));
	for (i = 0; i < sizeof(pa); i++) {
		h *= 0x01000193;
		h ^= bytes[i];
	}
	return (h & (BUCKETS - 1));
}

static void
hash_build(void)
{
	size_t r;
	uint64_t bit = 0, pa;
	int64_t off = 0;

	for (r = 0; r < nranges; r += 2) {
		for (pa = ranges[r]; pa < ranges[r + 1]; pa += page_size, bit++) {
			struct node *n;
			unsigned b;

			if (bit / 64 >= nwords)
				return;
			if ((words[bit / 64] >> (bit % 64) & 1) == 0)
				continue;
			n = malloc(sizeof(*n));
			if (n == NULL)
				abort();
			n->pa = pa;
			n->off = off;
			b = bucket(pa);
			n->next = heads[b];
			heads[b] = n;
			off += page_size;
		}
	}
}

static uint64_t
hash_find(uint64_t page)
{
	uint64_t pa = page << page_shift;
	struct node *n;

	for (n = heads[bucket(pa)]; n != NULL; n = n->next)
		if (n->pa == pa)
			return ((uint64_t)n->off >> page_shift);
	return (ABSENT);
}

/* --- population counts: one for 1024 bits, words from the nearer end --- */

#define STEP 1024
#define STEP_WORDS (STEP / 64)

static uint32_t *counts;
/* Bytes of all dumped pages. */
static uint64_t dumped;

/*
 * Arithmetic, as FreeBSD's bitcount64 compiles for x86-64 without -mpopcnt.
 */
static uint32_t
ones(uint64_t x)
{
	x -= x >> 1 & 0x5555555555555555;
	x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return (x * 0x0101010101010101 >> 56);
}

/* Of a word, from bit first to before bit end, one bit at least. */
static uint32_t
ones_between(uint64_t word, uint32_t first, uint32_t end)
{
	if (first != 0 || end != 64)
		word &= (((uint64_t)1 << (end - first)) - 1) << first;
	return (ones(word));
}

/* Of words, likewise; first lies in w[0]. Word after word, as libkvm does. */
static uint32_t
ones_in(const uint64_t *w, uint32_t first, uint32_t end)
{
	uint32_t n, count = 0, bits = end - first;

	if (first != 0) {
		n = end < 64 ? end : 64;
		count = ones_between(*w++, first, n);
		bits -= n - first;
	}
	for (; bits > 0; bits -= n) {
		n = bits < 64 ? bits : 64;
		count += ones_between(*w++, 0, n);
	}
	return (count);
}

static void
popcount_build(void)
{
	size_t i;
	uint64_t left = nwords * 64;
	uint32_t *count;

	counts = calloc((nwords + STEP_WORDS - 1) / STEP_WORDS + 1,
	    sizeof(*counts));
	if (counts == NULL)
		abort();
	/* Word by word into the count behind its 1024 bits. */
	for (count = counts, i = 0; left > 0; i++) {
		uint32_t n = left < 64 ? (uint32_t)left : 64;

		if (i % STEP_WORDS == 0) {
			count++;
			count[0] = count[-1];
		}
		*count += ones_in(words + i, 0, n);
		left -= n;
	}
	dumped = (uint64_t)*count * page_size;
}

/*
 * The bit of an address, past the ranges before its own. The page size is a
 * variable to libkvm, which divides by it: so does this.
 */
static uint64_t
bit_of(uint64_t pa)
{
	uint64_t before = 0;
	size_t r;

	for (r = 0; r < nranges; r += 2) {
		uint64_t start = ranges[r], end = ranges[r + 1];

		if (pa < end) {
			if (pa < start)
				return (ABSENT);
			return (pa / page_size - start / page_size + before);
		}
		before += (end + page_size - 1) / page_size - start / page_size;
	}
	return (ABSENT);
}

static uint64_t
popcount_find(uint64_t page)
{
	uint64_t bit = bit_of(page << page_shift), id = bit / STEP;
	uint64_t i = bit / 64, end;
	uint32_t count;

	if (bit == ABSENT || i >= nwords || (words[i] >> bit % 64 & 1) == 0)
		return (ABSENT);
	if (bit % STEP < STEP / 2) {
		count = counts[id] +
		    ones_in(words + id * STEP_WORDS, 0, bit - id * STEP);
	} else {
		end = (id + 1) * STEP;
		if (end > nwords * 64)
			end = nwords * 64;
		count = counts[id + 1] -
		    ones_in(words + i, bit - i * 64, end - i * 64);
	}
	/* Pages behind the end of a dump that was cut aren't there. */
	if (count >= dumped / page_size)
		return (ABSENT);
	return (count);
}

/* --- timing --- */

static volatile uint64_t zero;

/* The table is chosen outside of the loop, as a program has one of them. */
#define LOOPS(find)							\
static uint64_t								\
find ## _dependent(size_t n)						\
{									\
	uint64_t z = zero, last = 0, sum = 0;				\
	size_t i;							\
									\
	for (i = 0; i < n; i++) {					\
		last = find(queries[i] ^ (last & z));			\
		sum += last;						\
	}								\
	return (sum);							\
}									\
									\
static uint64_t								\
find ## _independent(size_t n)						\
{									\
	uint64_t sum = 0;						\
	size_t i;							\
									\
	for (i = 0; i < n; i++)						\
		sum += find(queries[i]);				\
	return (sum);							\
}

LOOPS(hash_find)
LOOPS(popcount_find)

static uint64_t *
load(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	uint64_t *p;
	long bytes;

	if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (bytes = ftell(f)) < 0) {
		perror(path);
		exit(1);
	}
	rewind(f);
	*n = (size_t)bytes / sizeof(*p);
	p = malloc(*n * sizeof(*p) + 1);
	if (p == NULL || fread(p, sizeof(*p), *n, f) != *n) {
		perror(path);
		exit(1);
	}
	fclose(f);
	return (p);
}

static uint64_t *
copy(const uint64_t *from, size_t n)
{
	uint64_t *p = malloc(n * sizeof(*p) + 1);

	if (p == NULL)
		abort();
	return (memcpy(p, from, n * sizeof(*p)));
}

static int64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return ((int64_t)t.tv_sec * 1000000000 + t.tv_nsec);
}

int
main(int argc, char **argv)
{
	int64_t start, hash_took;
	char table[16], loop[16];
	size_t n;

	if (argc != 5 || (page_size = (unsigned)atoi(argv[4])) == 0) {
		fprintf(stderr, "usage: libkvm BITMAP RANGES QUERIES PAGE_SIZE\n");
		return (2);
	}
	while (page_size >> page_shift > 1)
		page_shift++;
	words = load(argv[1], &nwords);
	ranges = load(argv[2], &nranges);
	queries = load(argv[3], &nqueries);
	start = now();
	hash_build();
	hash_took = now() - start;
	while (scanf("%15s %15s %zu", table, loop, &n) == 3) {
		uint64_t sum = 0;
		int64_t took;
		int hash = strcmp(table, "hash") == 0;

		if (n > nqueries)
			n = nqueries;
		if (!hash && strcmp(loop, "build") == 0)
			words = copy(words, nwords);
		start = now();
		if (strcmp(loop, "build") == 0) {
			if (!hash)
				popcount_build();
		} else if (strcmp(loop, "dependent") == 0)
			sum = hash ? hash_find_dependent(n) : popcount_find_dependent(n);
		else if (strcmp(loop, "independent") == 0)
			sum = hash ? hash_find_independent(n) : popcount_find_independent(n);
		took = now() - start;
		if (hash && strcmp(loop, "build") == 0)
			took = hash_took;
		printf("%" PRId64 " %" PRIu64 "\n", took, sum);
		fflush(stdout);
	}
	return (0);
}
