/* SPDX-License-Identifier: MIT */
#include "codec/torch.h"

#include "codec/bytes.h"

#include <errno.h>
#include <inttypes.h>

enum {
    DIMS_MAX = 16,
    STACK_MAX = 1 << 20,
    MEMORY_MAX = 256 << 20, /* bytes of all values; an instruction of one byte makes up to 48 */
};

enum value_kind {
    VALUE_MARK,
    VALUE_NONE,
    VALUE_INT, /* and bool */
    VALUE_FLOAT,
    VALUE_TEXT,
    VALUE_LIST, /* and tuple */
    VALUE_DICT, /* items: key, value, key, value ... */
    VALUE_GLOBAL,
    VALUE_STORAGE,
    VALUE_TENSOR,
};

struct value {
    enum value_kind kind;
    union {
        int64_t number;
        const char *text;
        const struct global *global;
        struct torch_tensor *tensor; /* of a storage: its dtype and key, and its elements */
        struct {
            struct value **items;
            size_t count, capacity;
        };
    };
};

/* All that a pickle may name. */
enum global_kind {
    GLOBAL_DICT,      /* collections.OrderedDict: () -> {} */
    GLOBAL_TENSOR,    /* (storage, first, shape, stride, ...) -> tensor */
    GLOBAL_PARAMETER, /* (tensor, ...) -> tensor */
    GLOBAL_STORAGE,   /* a type of storage */
};

static const struct global {
    const char *name;
    enum global_kind kind;
    const char *dtype; /* of a storage */
} globals[] = {
    {"collections.OrderedDict", GLOBAL_DICT, NULL},
    {"torch._utils._rebuild_tensor_v2", GLOBAL_TENSOR, NULL},
    {"torch._utils._rebuild_tensor", GLOBAL_TENSOR, NULL},
    {"torch._utils._rebuild_parameter", GLOBAL_PARAMETER, NULL},
    {"torch.FloatStorage", GLOBAL_STORAGE, "F32"},
    {"torch.HalfStorage", GLOBAL_STORAGE, "F16"},
    {"torch.BFloat16Storage", GLOBAL_STORAGE, "BF16"},
    {"torch.DoubleStorage", GLOBAL_STORAGE, "F64"},
    {"torch.BoolStorage", GLOBAL_STORAGE, "BOOL"},
    {"torch.ByteStorage", GLOBAL_STORAGE, "U8"},
    {"torch.CharStorage", GLOBAL_STORAGE, "I8"},
    {"torch.ShortStorage", GLOBAL_STORAGE, "I16"},
    {"torch.IntStorage", GLOBAL_STORAGE, "I32"},
    {"torch.LongStorage", GLOBAL_STORAGE, "I64"},
    {"torch.ComplexFloatStorage", GLOBAL_STORAGE, "C64"},
    {"torch.Float8_e4m3fnStorage", GLOBAL_STORAGE, "F8_E4M3"},
    {"torch.Float8_e5m2Storage", GLOBAL_STORAGE, "F8_E5M2"},
};

struct machine {
    struct reader in;
    const uint8_t *start;
    struct arena *arena;
    struct value **stack, **memo;
    size_t depth, stack_capacity, memo_count, memo_capacity;
    struct error *err;
};

/* ---- values ---- */

static int invalid(struct machine *m, const char *what)
{
    return error_set(m->err, -EINVAL, "pickle, byte %zu: %s", (size_t)(m->in.pos - m->start),
                     what);
}

static int out_of_memory(struct machine *m) { return error_set(m->err, -ENOMEM, "out of memory"); }

static int append(struct value ***items, size_t *count, size_t *capacity, struct value *v)
{
    if (*count == *capacity) {
        size_t grown = *capacity ? 2 * *capacity : 16;
        struct value **p = reallocarray(*items, grown, sizeof *p);
        if (!p)
            return -ENOMEM;
        *items = p;
        *capacity = grown;
    }
    (*items)[(*count)++] = v;
    return 0;
}

static int push(struct machine *m, struct value *v)
{
    if (!v || append(&m->stack, &m->depth, &m->stack_capacity, v))
        return out_of_memory(m);
    return m->depth > STACK_MAX ? invalid(m, "the stack is too deep") : 0;
}

static int push_new(struct machine *m, struct value v)
{
    struct value *copy = arena_alloc(m->arena, sizeof *copy);
    if (copy)
        *copy = v;
    return push(m, copy);
}

static int push_int(struct machine *m, int64_t v)
{
    return push_new(m, (struct value){.kind = VALUE_INT, .number = v});
}

static struct value *pop(struct machine *m)
{
    return m->depth && m->stack[m->depth - 1]->kind != VALUE_MARK ? m->stack[--m->depth] : NULL;
}

/* The number of values above the last mark; false if there is none. */
static bool above_mark(const struct machine *m, size_t *count)
{
    for (*count = 0; *count < m->depth; ++*count)
        if (m->stack[m->depth - 1 - *count]->kind == VALUE_MARK)
            return true;
    return false;
}

/* Adds values to a list or dictionary, whose items live in the arena. */
static int extend(struct machine *m, struct value *v, struct value **items, size_t n)
{
    if (n > v->capacity - v->count) {
        size_t capacity = v->count + (n > v->count ? n : v->count);
        struct value **grown = arena_array(m->arena, capacity, sizeof *grown);
        if (!grown)
            return out_of_memory(m);
        if (v->count)
            memcpy(grown, v->items, v->count * sizeof *grown);
        v->items = grown;
        v->capacity = capacity;
    }
    if (n)
        memcpy(v->items + v->count, items, n * sizeof *items);
    v->count += n;
    return 0;
}

/* Replaces the last n values, and a mark below them, by a tuple of them. */
static int make_tuple(struct machine *m, size_t n, bool mark)
{
    struct value tuple = {.kind = VALUE_LIST};
    if (n + mark > m->depth)
        return invalid(m, "the stack is empty");
    int rc = extend(m, &tuple, m->stack + m->depth - n, n);
    if (rc)
        return rc;
    m->depth -= n + mark;
    return push_new(m, tuple);
}

/* ---- names ---- */

static int push_global(struct machine *m, const char *module, size_t module_size, const char *name,
                       size_t name_size)
{
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        const char *known = globals[i].name;
        if (strlen(known) == module_size + 1 + name_size &&
            memcmp(known, module, module_size) == 0 && known[module_size] == '.' &&
            memcmp(known + module_size + 1, name, name_size) == 0)
            return push_new(m, (struct value){.kind = VALUE_GLOBAL, .global = &globals[i]});
    }
    return error_set(m->err, -ENOTSUP,
                     "pickle, byte %zu: it needs %.*s.%.*s, which is no part of a tensor",
                     (size_t)(m->in.pos - m->start), (int)(module_size < 80 ? module_size : 80),
                     module, (int)(name_size < 80 ? name_size : 80), name);
}

static bool read_line(struct reader *r, const uint8_t **line, size_t *size)
{
    const uint8_t *end = reader_left(r) ? memchr(r->pos, '\n', reader_left(r)) : NULL;
    if (!end)
        return false;
    *line = r->pos;
    *size = (size_t)(end - r->pos);
    r->pos = end + 1;
    return true;
}

static int run_global(struct machine *m)
{
    const uint8_t *module, *name;
    size_t module_size, name_size;
    if (!read_line(&m->in, &module, &module_size) || !read_line(&m->in, &name, &name_size))
        return invalid(m, "a name is cut short");
    return push_global(m, (const char *)module, module_size, (const char *)name, name_size);
}

static int run_stack_global(struct machine *m)
{
    struct value *name = pop(m), *module = name ? pop(m) : NULL;
    if (!module || module->kind != VALUE_TEXT || name->kind != VALUE_TEXT)
        return invalid(m, "a name that is no text");
    return push_global(m, module->text, strlen(module->text), name->text, strlen(name->text));
}

/* ---- calls ---- */

static bool is_size(const struct value *v) { return v->kind == VALUE_INT && v->number >= 0; }

/* ("storage", type, key, device, elements) */
static int run_persistent(struct machine *m)
{
    struct value *id = pop(m);
    if (!id || id->kind != VALUE_LIST || id->count < 5 || id->items[0]->kind != VALUE_TEXT ||
        strcmp(id->items[0]->text, "storage") != 0 || id->items[1]->kind != VALUE_GLOBAL ||
        id->items[1]->global->kind != GLOBAL_STORAGE || id->items[2]->kind != VALUE_TEXT ||
        !is_size(id->items[4]))
        return invalid(m, "a reference that is no storage");
    struct torch_tensor *t = arena_alloc(m->arena, sizeof *t);
    if (!t)
        return out_of_memory(m);
    *t = (struct torch_tensor){.storage = id->items[2]->text,
                               .dtype = dtype_by_name(id->items[1]->global->dtype),
                               .elements = (uint64_t)id->items[4]->number};
    return push_new(m, (struct value){.kind = VALUE_STORAGE, .tensor = t});
}

/* Row-major without holes; the stride of an extent of 1 says nothing. */
static bool is_contiguous(const uint64_t *shape, const struct value *strides, uint32_t ndim)
{
    uint64_t expected = 1;
    for (uint32_t i = ndim; i-- > 0;) {
        if (shape[i] > 1 && (!is_size(strides->items[i]) ||
                             (uint64_t)strides->items[i]->number != expected))
            return false;
        expected *= shape[i]; /* fits: the product of all was checked */
    }
    return true;
}

static int rebuild_tensor(struct machine *m, const struct value *args)
{
    if (args->count < 4 || args->items[0]->kind != VALUE_STORAGE || !is_size(args->items[1]) ||
        args->items[2]->kind != VALUE_LIST || args->items[3]->kind != VALUE_LIST ||
        args->items[2]->count != args->items[3]->count || args->items[2]->count > DIMS_MAX)
        return invalid(m, "a tensor with invalid arguments");
    const struct torch_tensor *storage = args->items[0]->tensor;
    const struct value *shape = args->items[2];
    struct torch_tensor *t = arena_alloc(m->arena, sizeof *t);
    uint64_t *extents = arena_array(m->arena, shape->count + 1, sizeof *extents);
    if (!t || !extents)
        return out_of_memory(m);
    uint64_t elements = 1, first = (uint64_t)args->items[1]->number;
    for (size_t i = 0; i < shape->count; i++) {
        if (!is_size(shape->items[i]))
            return invalid(m, "a tensor with an invalid shape");
        extents[i] = (uint64_t)shape->items[i]->number;
        if (__builtin_mul_overflow(elements, extents[i], &elements))
            return invalid(m, "a tensor with an invalid shape");
    }
    if (first > storage->elements || elements > storage->elements - first)
        return invalid(m, "a tensor that is larger than its storage");
    uint32_t ndim = (uint32_t)shape->count;
    if (elements && !is_contiguous(extents, args->items[3], ndim))
        return error_set(m->err, -ENOTSUP,
                         "pickle, byte %zu: a tensor whose elements do not lie in order "
                         "(transposed or sliced)",
                         (size_t)(m->in.pos - m->start));
    *t = (struct torch_tensor){.storage = storage->storage,
                               .dtype = storage->dtype,
                               .shape = extents,
                               .ndim = ndim,
                               .elements = elements,
                               .first = first};
    return push_new(m, (struct value){.kind = VALUE_TENSOR, .tensor = t});
}

static int run_reduce(struct machine *m)
{
    struct value *args = pop(m), *callable = args ? pop(m) : NULL;
    if (!callable || callable->kind != VALUE_GLOBAL || args->kind != VALUE_LIST)
        return invalid(m, "a call of what cannot be called");
    switch (callable->global->kind) {
    case GLOBAL_DICT:
        if (args->count == 0)
            return push_new(m, (struct value){.kind = VALUE_DICT});
        break;
    case GLOBAL_TENSOR: return rebuild_tensor(m, args);
    case GLOBAL_PARAMETER:
        if (args->count && args->items[0]->kind == VALUE_TENSOR)
            return push(m, args->items[0]);
        break;
    case GLOBAL_STORAGE: break;
    }
    return invalid(m, "a call with invalid arguments");
}

/* ---- containers ---- */

/* Takes n values, and a mark below them, and adds them to the container below that. */
static int run_add(struct machine *m, enum value_kind kind, size_t n, bool mark)
{
    if (n + mark >= m->depth || (kind == VALUE_DICT && n % 2))
        return invalid(m, "the stack is empty");
    struct value *container = m->stack[m->depth - n - mark - 1];
    if (container->kind != kind)
        return invalid(m, "items for what is no container");
    int rc = extend(m, container, m->stack + m->depth - n, n);
    m->depth -= n + mark;
    return rc;
}

static int run_add_marked(struct machine *m, enum value_kind kind)
{
    size_t n;
    return above_mark(m, &n) ? run_add(m, kind, n, true) : invalid(m, "a mark is missing");
}

/* Attributes of a dictionary (torch keeps its _metadata there) are nothing to us. */
static int run_build(struct machine *m)
{
    struct value *state = pop(m);
    return state && m->depth && m->stack[m->depth - 1]->kind == VALUE_DICT
               ? 0
               : invalid(m, "a state for what is no dictionary");
}

static int run_text(struct machine *m, uint64_t size)
{
    const uint8_t *p;
    if (!read_bytes(&m->in, size, &p))
        return invalid(m, "a text is cut short");
    if (size && memchr(p, 0, size))
        return invalid(m, "a text with a NUL in it");
    const char *text = arena_strndup(m->arena, (const char *)p, (size_t)size);
    return text ? push_new(m, (struct value){.kind = VALUE_TEXT, .text = text})
                : out_of_memory(m);
}

/* A little-endian two's complement of n bytes. */
static int run_long(struct machine *m, size_t n)
{
    const uint8_t *p;
    if (n > 8 || !read_bytes(&m->in, n, &p))
        return invalid(m, "an integer that is cut short or too large");
    uint64_t v = n && p[n - 1] & 0x80 ? UINT64_MAX : 0;
    memcpy(&v, p, n);
    return push_int(m, (int64_t)v);
}

/* ---- the memo: picklers number it from 0 upwards ---- */

static int memo_put(struct machine *m, uint64_t index)
{
    if (!m->depth || index > m->memo_count)
        return invalid(m, "a memo out of order");
    if (index < m->memo_count) {
        m->memo[index] = m->stack[m->depth - 1];
        return 0;
    }
    return append(&m->memo, &m->memo_count, &m->memo_capacity, m->stack[m->depth - 1])
               ? out_of_memory(m)
               : 0;
}

static int memo_get(struct machine *m, uint64_t index)
{
    return index < m->memo_count ? push(m, m->memo[index]) : invalid(m, "a memo that is not there");
}

/* ---- instructions ---- */

/* An operand of n bytes, unsigned. */
static bool operand(struct machine *m, size_t n, uint64_t *v)
{
    *v = 0;
    return read_copy(&m->in, v, n);
}

static int run(struct machine *m, uint8_t op)
{
    uint64_t v = 0;
    size_t n;
    /* Bytes of the operand that follows, for the instructions that have one. */
    static const uint8_t operands[256] = {
        [0x80] = 1, ['q'] = 1, ['h'] = 1, ['K'] = 1, ['U'] = 1, [0x8a] = 1, [0x8c] = 1,
        ['M'] = 2, ['r'] = 4, ['j'] = 4, ['X'] = 4, ['T'] = 4, [0x95] = 8,
    };
    if (operands[op] && !operand(m, operands[op], &v))
        return invalid(m, "it ends within an instruction");
    switch (op) {
    case 0x80: return v <= 5 ? 0 : invalid(m, "an unknown protocol");
    case 0x95: return 0; /* FRAME: a hint for readers of streams */
    case '(': return push_new(m, (struct value){.kind = VALUE_MARK});
    case 'N': return push_new(m, (struct value){.kind = VALUE_NONE});
    case ']': case ')': return push_new(m, (struct value){.kind = VALUE_LIST});
    case '}': return push_new(m, (struct value){.kind = VALUE_DICT});
    case 0x88: return push_int(m, 1);
    case 0x89: return push_int(m, 0);
    case 'K': case 'M': return push_int(m, (int64_t)v);
    case 'J': {
        int32_t i;
        return read_i32(&m->in, &i) ? push_int(m, i) : invalid(m, "an integer is cut short");
    }
    case 0x8a: return run_long(m, (size_t)v);
    case 'G': {
        const uint8_t *p;
        return read_bytes(&m->in, 8, &p) ? push_new(m, (struct value){.kind = VALUE_FLOAT})
                                         : invalid(m, "a number is cut short");
    }
    case 'X': case 'T': case 'U': case 0x8c: return run_text(m, v);
    case 'c': return run_global(m);
    case 0x93: return run_stack_global(m);
    case 'q': case 'r': return memo_put(m, v);
    case 0x94: return memo_put(m, m->memo_count);
    case 'h': case 'j': return memo_get(m, v);
    case 't': return above_mark(m, &n) ? make_tuple(m, n, true) : invalid(m, "a mark is missing");
    case 0x85: case 0x86: case 0x87: return make_tuple(m, op - 0x84u, false);
    case 'a': return run_add(m, VALUE_LIST, 1, false);
    case 's': return run_add(m, VALUE_DICT, 2, false);
    case 'e': return run_add_marked(m, VALUE_LIST);
    case 'u': return run_add_marked(m, VALUE_DICT);
    case 'Q': return run_persistent(m);
    case 'R': return run_reduce(m);
    case 'b': return run_build(m);
    default:
        return error_set(m->err, -ENOTSUP,
                         "pickle, byte %zu: instruction 0x%02x is no part of a dictionary of "
                         "tensors",
                         (size_t)(m->in.pos - m->start) - 1, op);
    }
}

/* The result: a dictionary from names to tensors. */
static int take_tensors(struct machine *m, struct torch_pickle *out)
{
    struct value *top = pop(m);
    if (!top || top->kind != VALUE_DICT || m->depth)
        return error_set(m->err, -ENOTSUP, "the pickle is no dictionary of tensors");
    out->tensors = arena_array(m->arena, top->count / 2 + 1, sizeof *out->tensors);
    if (!out->tensors)
        return out_of_memory(m);
    for (size_t i = 0; i < top->count; i += 2) {
        const struct value *name = top->items[i], *v = top->items[i + 1];
        if (name->kind != VALUE_TEXT || v->kind != VALUE_TENSOR)
            return error_set(m->err, -ENOTSUP, "the pickle's entry \"%.100s\" is no tensor",
                             name->kind == VALUE_TEXT ? name->text : "?");
        out->tensors[out->count] = *v->tensor;
        out->tensors[out->count++].name = name->text;
    }
    return 0;
}

int torch_pickle_parse(const uint8_t *data, size_t size, struct torch_pickle *out,
                       struct error *err)
{
    *out = (struct torch_pickle){0};
    struct machine m = {
        .in = reader_make(data, size), .start = data, .arena = &out->arena, .err = err};
    uint8_t op = 0;
    int rc = 0;
    while (!rc && op != '.') {
        rc = read_copy(&m.in, &op, 1) ? 0 : invalid(&m, "it has no end");
        if (!rc && op != '.')
            rc = out->arena.total > MEMORY_MAX ? invalid(&m, "it takes too much memory")
                                               : run(&m, op);
    }
    rc = rc ? rc : take_tensors(&m, out);
    free(m.stack);
    free(m.memo);
    if (rc)
        torch_pickle_free(out);
    return rc;
}

void torch_pickle_free(struct torch_pickle *p)
{
    arena_free(&p->arena);
    *p = (struct torch_pickle){0};
}
