/*
 * The two ways in which libkvm has found pages, in C, timed: what the Rust
 * baselines are held against (benches/benches/baselines.rs). Written for this
 * purpose from the description of the algorithms in the project's notes, not
 * from libkvm's source.
 *
 * libkvm BITMAP RANGES QUERIES: files of 64-bit little-endian words. RANGES has
 * pairs (first page, pages); bits count their pages one after the other. Both
 * tables are built, once, in a heap that nothing was freed from.
 * Then one command a line on standard input, "TABLE LOOP COUNT":
 *	hash|popcount build|dependent|independent COUNT
 * answered by "NANOSECONDS CHECKSUM".
 */

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE_SHIFT 12
#define ABSENT UINT64_MAX

static uint64_t *words, *ranges, *queries;
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
	uint64_t bit = 0, page;
	int64_t off = 0;

	for (r = 0; r < nranges; r += 2) {
		for (page = ranges[r]; page < ranges[r] + ranges[r + 1]; page++, bit++) {
			struct node *n;
			unsigned b;

			if (bit / 64 >= nwords)
				return;
			if ((words[bit / 64] >> (bit % 64) & 1) == 0)
				continue;
			n = malloc(sizeof(*n));
			if (n == NULL)
				abort();
			n->pa = page << PAGE_SHIFT;
			n->off = off;
			b = bucket(n->pa);
			n->next = heads[b];
			heads[b] = n;
			off += 1 << PAGE_SHIFT;
		}
	}
}

static uint64_t
hash_find(uint64_t page)
{
	uint64_t pa = page << PAGE_SHIFT;
	struct node *n;

	for (n = heads[bucket(pa)]; n != NULL; n = n->next)
		if (n->pa == pa)
			return ((uint64_t)n->off >> PAGE_SHIFT);
	return (ABSENT);
}

/* --- population counts: one for 1024 bits, words from the nearer end --- */

#define STEP 1024
#define STEP_WORDS (STEP / 64)

static uint32_t *counts;

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

/* Word after word, the last one cut to what is asked for. */
static uint32_t
ones_in(const uint64_t *w, uint32_t bits)
{
	uint32_t n, count = 0;

	for (; bits > 0; bits -= n) {
		n = bits < 64 ? bits : 64;
		count += ones(n == 64 ? *w : *w & (((uint64_t)1 << n) - 1));
		w++;
	}
	return (count);
}

static void
popcount_build(void)
{
	size_t i, n = (nwords + STEP_WORDS - 1) / STEP_WORDS;
	uint32_t total = 0;

	counts = malloc((n + 1) * sizeof(*counts));
	if (counts == NULL)
		abort();
	for (i = 0; i < n; i++) {
		size_t left = nwords - i * STEP_WORDS;

		counts[i] = total;
		total += ones_in(words + i * STEP_WORDS,
		    (left < STEP_WORDS ? (uint32_t)left : STEP_WORDS) * 64);
	}
	counts[n] = total;
}

static uint64_t
popcount_find(uint64_t page)
{
	uint64_t bit = 0, word, mask;
	uint32_t count;
	size_t r, i;

	for (r = 0; r < nranges; r += 2) {
		if (page >= ranges[r] && page - ranges[r] < ranges[r + 1])
			break;
		bit += ranges[r + 1];
	}
	if (r >= nranges)
		return (ABSENT);
	bit += page - ranges[r];
	i = bit / 64;
	if (i >= nwords)
		return (ABSENT);
	word = words[i];
	mask = (uint64_t)1 << bit % 64;
	if ((word & mask) == 0)
		return (ABSENT);
	if (bit % STEP < STEP / 2) {
		count = counts[bit / STEP] + ones(word & (mask - 1));
		while (i % STEP_WORDS != 0)
			count += ones(words[--i]);
	} else {
		count = counts[bit / STEP + 1] - ones(word & ~(mask - 1));
		while (++i % STEP_WORDS != 0)
			if (i < nwords)
				count -= ones(words[i]);
	}
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
	int64_t start, hash_took, popcount_took;
	char table[16], loop[16];
	size_t n;

	if (argc != 4) {
		fprintf(stderr, "usage: libkvm BITMAP RANGES QUERIES\n");
		return (2);
	}
	words = load(argv[1], &nwords);
	ranges = load(argv[2], &nranges);
	queries = load(argv[3], &nqueries);
	start = now();
	hash_build();
	hash_took = now() - start;
	start = now();
	popcount_build();
	popcount_took = now() - start;
	while (scanf("%15s %15s %zu", table, loop, &n) == 3) {
		uint64_t sum = 0;
		int64_t took;
		int hash = strcmp(table, "hash") == 0;

		if (n > nqueries)
			n = nqueries;
		start = now();
		if (strcmp(loop, "dependent") == 0)
			sum = hash ? hash_find_dependent(n) : popcount_find_dependent(n);
		else if (strcmp(loop, "independent") == 0)
			sum = hash ? hash_find_independent(n) : popcount_find_independent(n);
		took = now() - start;
		if (strcmp(loop, "build") == 0)
			took = hash ? hash_took : popcount_took;
		printf("%" PRId64 " %" PRIu64 "\n", took, sum);
		fflush(stdout);
	}
	return (0);
}
