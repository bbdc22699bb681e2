/* SPDX-License-Identifier: MIT */
#include "tools/command.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

const char *text_bytes(uint64_t bytes, char *out)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double v = (double)bytes;
    int unit = 0;
    while (v >= 1024 && unit < 5) {
        v /= 1024;
        unit++;
    }
    snprintf(out, 16, unit == 0 ? "%.0f %s" : v < 10 ? "%.2f %s" : "%.1f %s", v, units[unit]);
    return out;
}

const char *text_count(uint64_t n, char *out)
{
    static const char units[] = " KMBT";
    double v = (double)n;
    int unit = 0;
    while (v >= 1000 && unit < 4) {
        v /= 1000;
        unit++;
    }
    snprintf(out, 16, unit == 0 ? "%.0f" : v < 10 ? "%.2f %c" : "%.1f %c", v, units[unit]);
    return out;
}

const char *text_duration(double seconds, char *out)
{
    enum { LONGEST = 359999 }; /* 99:59:59 */
    unsigned s = seconds > LONGEST ? LONGEST : seconds > 0 ? (unsigned)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(out, 16, "%u:%02u:%02u", s / 3600 % 100, s / 60 % 60, s % 60);
    else
        snprintf(out, 16, "%u:%02u", s / 60 % 60, s % 60);
    return out;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void progress_begin(struct progress *p, const char *what, const char *unit, uint64_t total)
{
    *p = (struct progress){.what = what,
                           .unit = unit,
                           .total = total,
                           .started = now(),
                           .terminal = isatty(STDERR_FILENO) == 1};
}

/* "1.3 GiB  20.0 MiB/s", or "12 of 40 chunks"; out: 80 bytes. */
static const char *amount(const struct progress *p, double speed, char *out)
{
    char done[16], rate[16];
    if (p->unit)
        snprintf(out, 80, "%" PRIu64 " of %" PRIu64 " %s", p->done, p->total, p->unit);
    else
        snprintf(out, 80, "%s  %s/s", text_bytes(p->done, done), text_bytes((uint64_t)speed, rate));
    return out;
}

static void show(struct progress *p, double at)
{
    enum { WIDTH = 24 };
    char bar[WIDTH + 1], much[80], left[16];
    double share = p->total ? (double)p->done / (double)p->total : 1;
    double speed = (double)p->done / (at - p->started + 1e-9);
    for (int i = 0; i < WIDTH; i++)
        bar[i] = (i + 1) <= share * WIDTH ? '=' : ' ';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r%s [%s] %3.0f %%  %s  %s left   ", p->what, bar, 100 * share,
            amount(p, speed, much),
            text_duration(speed > 0 ? (double)(p->total - p->done) / speed : 0, left));
    fflush(stderr);
    p->shown = at;
}

void progress_add(struct progress *p, uint64_t n)
{
    p->done += n;
    double at = now();
    if (p->terminal && at - p->shown > 0.1)
        show(p, at);
}

void progress_clear(struct progress *p)
{
    if (p->shown > 0)
        fputs("\r\033[K", stderr);
}

double progress_end(struct progress *p)
{
    double at = now();
    if (p->terminal) {
        show(p, at);
        fputc('\n', stderr);
    }
    return at - p->started;
}
