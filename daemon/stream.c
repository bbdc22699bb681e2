/* SPDX-License-Identifier: MIT */
#include "daemon/stream.h"

void stream_init(struct stream *s, uint64_t readahead)
{
    *s = (struct stream){.readahead = readahead, .window = STREAM_WINDOW_MIN};
    pthread_mutex_init(&s->lock, NULL);
}

void stream_destroy(struct stream *s) { pthread_mutex_destroy(&s->lock); }

bool stream_is_fault(struct stream *s, uint64_t offset)
{
    pthread_mutex_lock(&s->lock);
    uint64_t half = s->readahead / 2;
    bool fault = half && s->start && offset == s->start + half && s->next == offset &&
                 s->run == half;
    pthread_mutex_unlock(&s->lock);
    return fault;
}

bool stream_advance(struct stream *s, uint64_t offset, uint64_t size, uint64_t *from, uint64_t *to)
{
    uint64_t end = offset + size;
    bool more = false;
    pthread_mutex_lock(&s->lock);
    bool follows = s->run && offset + STREAM_DISORDER >= s->next &&
                   offset <= s->next + STREAM_DISORDER;
    if (!follows) {
        s->run = size;
        s->window = STREAM_WINDOW_MIN;
        s->start = offset;
        s->next = s->ahead = end;
    } else {
        s->run += size;
        if (s->next < end)
            s->next = end;
    }
    if (s->ahead < s->next)
        s->ahead = s->next;
    if (s->run > 2 * s->readahead && s->ahead - s->next <= s->window / 2) {
        *from = s->ahead;
        *to = s->ahead = s->next + s->window;
        if (s->window < STREAM_WINDOW_MAX)
            s->window *= 2;
        more = true;
    }
    pthread_mutex_unlock(&s->lock);
    return more;
}

void stream_cut(struct stream *s, uint64_t at)
{
    pthread_mutex_lock(&s->lock);
    if (s->ahead > at)
        s->ahead = at;
    pthread_mutex_unlock(&s->lock);
}
