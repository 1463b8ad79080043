/* STREAM's triad, a[i] = b[i] + s * c[i], to compare the measured bandwidth with. Built for that comparison alone.

   Usage: stream_triad ELEMENTS TIMES. Prints the seconds of each pass over arrays of so many doubles, one a line.
   After McCalpin, "Memory bandwidth and machine balance in current high performance computers", 1995: 24 bytes are
   counted per element, and the first touch is by the thread that will use the page. */

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: stream_triad ELEMENTS TIMES\n");
        return 2;
    }
    const long n = atol(argv[1]);
    const int times = atoi(argv[2]);
    double *a = aligned_alloc(4096, n * sizeof *a);
    double *b = aligned_alloc(4096, n * sizeof *b);
    double *c = aligned_alloc(4096, n * sizeof *c);
    if (n <= 0 || times <= 0 || a == NULL || b == NULL || c == NULL) {
        fprintf(stderr, "stream_triad: cannot allocate three arrays of %ld doubles\n", n);
        return 1;
    }
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) {
        a[i] = 0.0;
        b[i] = 1.0;
        c[i] = 2.0;
    }
    const double scalar = 3.0;
    for (int k = 0; k < times; k++) {
        const double start = omp_get_wtime();
#pragma omp parallel for schedule(static)
        for (long i = 0; i < n; i++)
            a[i] = b[i] + scalar * c[i];
        printf("%.9f\n", omp_get_wtime() - start);
    }
    if (a[n / 2] != 7.0) {
        fprintf(stderr, "stream_triad: wrong result\n");
        return 1;
    }
    return 0;
}
