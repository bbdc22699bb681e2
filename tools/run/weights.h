/* SPDX-License-Identifier: MIT
 *
 * A GGUF file that is to be run: its keys, its vocabulary, and its weights, packed as they are. What
 * the memory has room for is resident, the rest comes through a ring in every pass; whoever takes
 * weights cannot tell one from the other.
 *
 * First the file is opened. Then whoever knows the model asks for its matrices, in the order in
 * which a pass uses them. Then they are placed, and from then on their rows can be taken, pass by
 * pass in that order. One thread calls.
 */
#ifndef TOOLS_RUN_WEIGHTS_H
#define TOOLS_RUN_WEIGHTS_H

#include "codec/gguf_vocab.h"
#include "codec/spqr/format.h"
#include "fs/container.h"
#include "kernels/backend.h"
#include "tools/run/extents_file.h"
#include "tools/run/lift.h"
#include "tools/run/plan.h"
#include "tools/run/ring.h"

/* A matrix of the file. */
struct weight {
    const struct format *format;
    uint64_t rows, cols;
    uint64_t units, unit_size;     /* that are read as a whole, and the bytes of one: */
    uint64_t unit_rows;            /* a row, or a stripe of 16 */
    const uint32_t *order;         /* the column at each place (arena); NULL: as they stand */
    const uint32_t *backend_order; /* the same in the backend's memory, once it was sent */
    uint64_t offset;               /* in the file */
    uint32_t layer, expert;        /* expert: PIECE_ALWAYS for none */
    uint64_t resident_units;       /* the first so many are in memory */
    const void *resident;
    size_t piece; /* where the others begin among the pieces */
};

/* Sets the units of a weight whose format and shape are known. False where it cannot have them. */
static inline bool weight_set_units(struct weight *m)
{
    bool good = format_unit(m->format, m->cols, &m->unit_rows, &m->unit_size);
    m->units = m->rows / m->unit_rows + (m->rows % m->unit_rows != 0);
    return good;
}

/* How weights may be placed. */
struct placing {
    uint64_t budget; /* bytes of the backend's memory for weights, and for ring or slots */
    uint64_t host;   /* bytes of the host's, where that is another */
    uint64_t ring;   /* of the host's, for the ring where one is needed; 0: as many as are useful */
    enum reader_kind io;
    enum lift_kind lift;
    size_t traced;       /* pieces that are lifted, of which the times are kept */
    double expert_share; /* of a layer's experts, those that a token takes */
};

/* A file that holds tiles of the model's. */
struct object {
    const char *path;
    int file; /* the reader's number for it; -1: it could not be opened */
    struct object *next;
};

/* Something in the host's memory that the backend needs, too; *where points to it. */
struct sending {
    const void **where;
    size_t size;
    struct sending *next;
};

struct weights {
    struct backend *backend; /* not owned; NULL: only to look at */
    unsigned run_alignment;  /* of a backend's runs of rows, in bytes; 0: any address will do */
    struct source_set *set;
    struct source *file;
    struct stats stats;
    struct container_gguf gguf;
    struct gguf_vocab vocab;
    struct tensor_list tensors;
    struct arena arena; /* vectors, as floats */
    struct weight **order;
    size_t count, capacity;
    struct sending *sendings; /* in the arena, and where they were sent to */
    void *sent;
    void *memory; /* all that is resident */
    struct plan_block *blocks;
    size_t block_count;
    struct piece *pieces; /* of what is not, in the order of a pass */
    size_t piece_count, piece_capacity;
    bool mounted;              /* the file is one of a mount of quantfs, and */
    struct extents_file tiles; /* this is where its bytes lie */
    struct object *objects;    /* of its cache, that were opened; in the arena */
    size_t unplaced;           /* pieces of tiles that lie nowhere yet */
    struct ring *ring;         /* NULL: all is resident, or held */
    struct lift *lift;         /* NULL: the backend's memory is the host's, or all is resident */
    bool mapped;               /* kernels read pieces where they lie in the host's memory */
    void *held;                /* of the host's memory: pieces that are lifted from there, */
    uint64_t held_size;        /* in whole pages */
    uint64_t bytes, resident_bytes, held_bytes, slot_size, slots;
    uint32_t lift_slots;
    bool direct; /* pieces are read past the page cache */
    uint64_t passes;
    uint64_t streamed_least, lifted_least;   /* fewest bytes of a pass through the ring; lifted */
    uint64_t streamed_before, lifted_before; /* the pass that runs */
};

/* Opens a file and reads its header. -errno with a sentence that begins with the path. */
int weights_open(struct weights *w, const char *path, struct backend *backend, struct error *err);
void weights_close(struct weights *w);

/* A matrix by name; of a tensor of three dimensions, number `part` of its matrices, which is an
 * expert then. -ENOENT where there is none, -ENOTSUP where there is no kernel for its type. */
int weights_matrix(struct weights *w, const char *name, uint32_t layer, uint32_t part,
                   const struct weight **out, struct error *err);

/* Adds a matrix that is in no file, for whoever only wants to plan. */
int weights_add(struct weights *w, const struct weight *matrix, const struct weight **out,
                struct error *err);

/* A matrix of which only single rows are read: it is not part of a pass, and stays in the file. */
int weights_table(struct weights *w, const char *name, struct weight *out, struct error *err);

/* A row of a table, packed. */
int weights_row(struct weights *w, const struct weight *table, uint64_t row, void *out,
                struct error *err);

/* n floats by name, NULL where there are none. -EINVAL where there are more or fewer. */
int weights_floats(struct weights *w, const char *name, uint64_t n, const float **out,
                   struct error *err);
/* The same for the backend, in whose memory they are once they were sent: *out has to stay. */
int weights_vector(struct weights *w, const char *name, uint64_t n, const float **out,
                   struct error *err);

/* Brings vectors and orders of columns to where the backend reads them. */
int weights_send(struct weights *w, struct error *err);

/* Makes the blocks that plan_place decides on, which weights_place does by itself. -ENOMEM. */
int weights_blocks(struct weights *w, double expert_share, struct error *err);

/* How many slots for pieces that are lifted there are in so many bytes of a device's memory, and the
 * bytes of one. */
void weights_lift_slots(const struct weights *w, uint64_t budget, uint64_t ring, uint32_t *count,
                        uint64_t *size);

/* What the smallest ring takes, in bytes; and the fewest slots of the backend's memory. */
uint64_t weights_ring_least(const struct weights *w);
uint64_t weights_slots_least(const struct weights *w, enum lift_kind kind);

/* Decides what is resident, and loads it. -ENOMEM with a sentence where the budget is too small. */
int weights_place(struct weights *w, const struct placing *p, struct error *err);

/* Asks the mount once more where tiles lie that lay nowhere. */
void weights_look_again(struct weights *w);

/* A pass begins, and ends. -ESTALE where the file has changed meanwhile: then the pass is void. */
void weights_begin(struct weights *w);
int weights_end(struct weights *w, struct error *err);

/* Bytes that came through the ring so far; that were lifted. */
uint64_t weights_streamed(const struct weights *w);
uint64_t weights_lifted(const struct weights *w);

/* Tells which experts of a layer the pass takes. */
void weights_choose(struct weights *w, uint32_t layer, const bool *chosen);

enum { TAKING_RUNS = 32 };

/* A walk over the rows of some weights, as they come into memory. Begun with all but `weights` and
 * `count` zero. */
struct taking {
    const struct weight *const *weights;
    size_t count;
    size_t at, piece; /* weight, the next of its pieces, */
    uint64_t unit;    /* and the unit where it goes on */
    struct portion {
        size_t weight;
        struct row_run run;  /* of rows */
    } portions[TAKING_RUNS]; /* in memory now */
    size_t portion_count;
    size_t taken; /* pieces of ring or lift among them */
};

/* Waits for the next rows. 1: there are portions, until weights_give. 0: all have been taken.
 * -errno with a sentence. */
int weights_take(struct weights *w, struct taking *t, struct error *err);
int weights_give(struct weights *w, struct taking *t);

#endif
