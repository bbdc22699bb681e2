/* SPDX-License-Identifier: MIT */
#include "tools/run/divergence.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int divergence_new(struct divergence *d, uint64_t tokens, struct error *err)
{
    *d = (struct divergence){.room = tokens};
    if (tokens < DIVERGENCE_TOKENS_MIN)
        return error_set(err, -ERANGE, "%" PRIu64 " tokens are compared, fewer than %d", tokens,
                         DIVERGENCE_TOKENS_MIN);
    d->klds = reallocarray(NULL, tokens, sizeof *d->klds);
    d->changes = reallocarray(NULL, tokens, sizeof *d->changes);
    if (d->klds && d->changes)
        return 0;
    divergence_free(d);
    return error_set(err, -ENOMEM, "out of memory");
}

void divergence_free(struct divergence *d)
{
    free(d->klds);
    free(d->changes);
    *d = (struct divergence){0};
}

/* Of two distributions over the vocabulary: own ln p is logits - shift. */
static double kl_divergence(const float *logits, float shift, uint32_t vocab,
                            const struct baseline_row *base, uint32_t *base_top)
{
    const float negligible = -16;
    double sum = 0;
    float most = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++) {
        float ln = baseline_ln(base, i);
        if (ln > most) {
            most = ln;
            *base_top = i;
        }
        if (ln > negligible)
            sum += (double)(expf(ln) * (ln - logits[i] + shift));
    }
    return sum;
}

void divergence_add(struct divergence *d, const float *logits, uint32_t vocab,
                    const struct baseline_row *base, uint32_t token)
{
    uint32_t top = 0, base_top = 0;
    double sum = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[top])
            top = i;
    for (uint32_t i = 0; i < vocab; i++)
        sum += (double)expf(logits[i] - logits[top]);
    float shift = logits[top] + (float)log(sum);
    double kld = kl_divergence(logits, shift, vocab, base, &base_top);
    double own = (double)(shift - logits[token]), was = -(double)baseline_ln(base, token);
    double change = exp(-own) - exp(-was), square = change * change;
    d->klds[d->count] = (float)kld;
    d->changes[d->count++] = (float)change;
    d->same_top += top == base_top;
    d->own += own;
    d->own_squares += own * own;
    d->base += was;
    d->base_squares += was * was;
    d->products += own * was;
    d->kld += kld;
    d->kld_squares += kld * kld;
    d->change += change;
    d->change_squares += square;
    d->change_fourths += square * square;
}

/* ---- figures ---- */

enum unit { NUMBER, PERCENT, CORRELATION };

enum { NO_ERROR = -1 };

static void add_json(json_t *root, const char *key, const char *suffix, double value)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", key, suffix);
    json_object_set_new(root, name, json_real(value));
}

static void print(const char *label, enum unit unit, double value, double error)
{
    if (unit == CORRELATION)
        printf("%s: %6.2f%%\n", label, 100 * value);
    else if (unit == PERCENT && error >= 0)
        printf("%s: %6.3f ± %5.3f %%\n", label, 100 * value, 100 * error);
    else if (unit == PERCENT)
        printf("%s: %6.3f%%\n", label, 100 * value);
    else if (error >= 0)
        printf("%s: %10.6f ± %10.6f\n", label, value, error);
    else
        printf("%s: %10.6f\n", label, value);
}

static void put(json_t *root, const char *label, const char *key, enum unit unit, double value,
                double error)
{
    if (!root) {
        print(label, unit, value, error);
        return;
    }
    add_json(root, key, "", value);
    if (error >= 0)
        add_json(root, key, "_error", error);
}

static void put_heading(const json_t *root, const char *line)
{
    if (!root)
        puts(line);
}

struct mean {
    double value, error;
};

static struct mean mean(double sum, double squares, uint64_t count)
{
    double n = (double)count, value = sum / n, variance = squares / n - value * value;
    return (struct mean){value, variance > 0 ? sqrt(variance / (n - 1)) : 0};
}

/* The error of a difference of two that go together. */
static double error_of_difference(double a, double b, double covariance)
{
    return sqrt(fmax(0, a * a + b * b - 2 * covariance));
}

static void put_perplexities(const struct divergence *d, json_t *root)
{
    struct mean own = mean(d->own, d->own_squares, d->count);
    struct mean base = mean(d->base, d->base_squares, d->count);
    double n = (double)d->count, spread = own.error * base.error;
    double covariance = (d->products / n - own.value * base.value) / (n - 1);
    double ppl = exp(own.value), ppl_base = exp(base.value);
    double ratio = own.value - base.value;
    double ratio_error = error_of_difference(own.error, base.error, covariance);
    put_heading(root, "====== Perplexity statistics ======");
    put(root, "Mean PPL(Q)                   ", "perplexity", NUMBER, ppl, ppl * own.error);
    put(root, "Mean PPL(base)                ", "perplexity_base", NUMBER, ppl_base,
        ppl_base * base.error);
    put(root, "Cor(ln(PPL(Q)), ln(PPL(base)))", "ln_perplexity_correlation", CORRELATION,
        spread > 0 ? covariance / spread : 0, NO_ERROR);
    put(root, "Mean ln(PPL(Q)/PPL(base))     ", "ln_perplexity_ratio", NUMBER, ratio, ratio_error);
    put(root, "Mean PPL(Q)/PPL(base)         ", "perplexity_ratio", NUMBER, exp(ratio),
        exp(ratio) * ratio_error);
    put(root, "Mean PPL(Q)-PPL(base)         ", "perplexity_difference", NUMBER, ppl - ppl_base,
        error_of_difference(ppl * own.error, ppl_base * base.error, ppl * ppl_base * covariance));
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(const float *sorted, uint64_t count, double fraction)
{
    double at = fraction * (double)(count - 1);
    uint64_t below = (uint64_t)at, above = below + 1 < count ? below + 1 : below;
    double share = at - (double)below;
    return (1 - share) * (double)sorted[below] + share * (double)sorted[above];
}

static void put_quantiles(json_t *root, float *values, uint64_t count, const char *what,
                          const char *key, enum unit unit)
{
    static const struct {
        const char *label, *key;
        double fraction;
        bool quartile; /* llama-perplexity tells these of percentages alone */
    } rows[] = {
        {"Maximum", "max",    1,     false},
        {"99.9%  ", "p99_9",  0.999, false},
        {"99.0%  ", "p99",    0.99,  false},
        {"95.0%  ", "p95",    0.95,  false},
        {"90.0%  ", "p90",    0.9,   false},
        {"75.0%  ", "p75",    0.75,  true },
        {"Median ", "median", 0.5,   false},
        {"25.0%  ", "p25",    0.25,  true },
        {"10.0%  ", "p10",    0.1,   false},
        {" 5.0%  ", "p5",     0.05,  false},
        {" 1.0%  ", "p1",     0.01,  false},
        {" 0.1%  ", "p0_1",   0.001, false},
        {"Minimum", "min",    0,     false},
    };
    char label[32], name[64];
    qsort(values, count, sizeof *values, ascending);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].quartile && unit != PERCENT)
            continue;
        snprintf(label, sizeof label, "%s %s", rows[i].label, what);
        snprintf(name, sizeof name, "%s_%s", key, rows[i].key);
        put(root, label, name, unit, quantile(values, count, rows[i].fraction), NO_ERROR);
    }
}

void divergence_report(struct divergence *d, json_t *root)
{
    struct mean kld = mean(d->kld, d->kld_squares, d->count);
    struct mean change = mean(d->change, d->change_squares, d->count);
    struct mean square = mean(d->change_squares, d->change_fourths, d->count);
    double rms = sqrt(square.value), n = (double)d->count, same = (double)d->same_top / n;
    put_perplexities(d, root);
    put_heading(root, "\n====== KL divergence statistics ======");
    put(root, "Mean    KLD", "kl_divergence_mean", NUMBER, kld.value, kld.error);
    put_quantiles(root, d->klds, d->count, "KLD", "kl_divergence", NUMBER);
    put_heading(root, "\n====== Token probability statistics ======");
    put(root, "Mean    Δp", "delta_p_mean", PERCENT, change.value, change.error);
    put_quantiles(root, d->changes, d->count, "Δp", "delta_p", PERCENT);
    put(root, "RMS Δp    ", "delta_p_rms", PERCENT, rms, rms > 0 ? 0.5 / rms * square.error : 0);
    put(root, "Same top p", "same_top_p", PERCENT, same, sqrt(same * (1 - same) / (n - 1)));
}
