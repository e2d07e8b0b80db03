/* Times random non-zero pages of a kdump-compressed file through libkdumpfile:
   FILE PAGES. Prints microseconds, one a line. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libkdumpfile/kdumpfile.h>

#define PAGE 4096
/* Of a PC: above lie devices, whose pages aren't all in the file. */
#define MOST_PFN 0x80000

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    static char page[PAGE], zeros[PAGE];
    if (argc != 3)
        return 2;
    long pages = atol(argv[2]), failures = 0;
    kdump_ctx_t *ctx = kdump_new();
    kdump_num_t most;
    if (kdump_set_number_attr(ctx, KDUMP_ATTR_FILE_FD, open(argv[1], O_RDONLY)) != KDUMP_OK
        || kdump_get_number_attr(ctx, "max_pfn", &most) != KDUMP_OK) {
        fprintf(stderr, "%s\n", kdump_get_err(ctx));
        return 1;
    }
    if (most > MOST_PFN)
        most = MOST_PFN;
    srandom(1);
    while (pages > 0 && failures < 1000000) {
        kdump_addr_t pfn = (((kdump_addr_t)random() << 20) ^ random()) % most;
        size_t len = PAGE;
        double start = now();
        kdump_status status = kdump_read(ctx, KDUMP_MACHPHYSADDR, pfn * PAGE, page, &len);
        double took = now() - start;
        if (status != KDUMP_OK) {
            kdump_clear_err(ctx);
            failures++;
        } else if (memcmp(page, zeros, PAGE)) {
            printf("%.3f\n", took);
            pages--;
        }
    }
    return pages > 0;
}
