/* SPDX-License-Identifier: MIT
 *
 * The CUDA driver as a table of functions. It is NVIDIA's driver API (libcuda.so.1), which every
 * machine with their driver has, loaded when it is asked for: the program has to start where there
 * is none. The runtime API would be a library of the toolkit's that no user has.
 *
 * Names on the left are ours; the signatures are the driver's own, and its documentation is
 * "CUDA Driver API". Enumerations are unsigned here, as compilers have them there, and a test
 * compares each signature with cuda.h where there is one.
 *
 * One device, one thread: what the table does it does for the context that is current in the
 * calling thread. Functions return CUDA_SUCCESS or what is wrong, which error_text puts in words.
 * Work that fails in a stream makes every call behind it fail.
 */
#ifndef KERNELS_CUDA_CUDA_API_H
#define KERNELS_CUDA_CUDA_API_H

#include <stddef.h>

struct CUctx_st;    /* a context */
struct CUmod_st;    /* device code that was loaded */
struct CUfunc_st;   /* a kernel of it */
struct CUstream_st; /* a queue */
struct CUevent_st;

/* Memory as the device knows it: an integer to the host. */
typedef unsigned long long cuda_address;

enum cuda_result {
    CUDA_SUCCESS = 0,
    CUDA_INVALID_VALUE = 1,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NO_DEVICE = 100,
    CUDA_ILLEGAL_STATE = 401,
    CUDA_NOT_FOUND = 500,
    CUDA_NOT_READY = 600,
    CUDA_ALREADY_REGISTERED = 712,
    CUDA_NOT_REGISTERED = 713
};

enum cuda_attribute {
    CUDA_CLOCK_KHZ = 13,
    CUDA_MULTIPROCESSORS = 16,
    CUDA_MEMORY_CLOCK_KHZ = 36,
    CUDA_MEMORY_BUS_BITS = 37,
    CUDA_CAPABILITY_MAJOR = 75,
    CUDA_CAPABILITY_MINOR = 76
};

enum cuda_flag {
    CUDA_STREAM_NON_BLOCKING = 1, /* stream_new: in no order with the default stream */
    CUDA_EVENT_NO_TIMING = 2,     /* event_new: cheaper, no use to event_elapsed */
    CUDA_REGISTER_MAPPED = 2      /* host_register: kernels may read it, by host_pointer */
};

/* X(name, the driver's name, arguments) */
/* clang-format off */
#define CUDA_API(X) \
    X(init, cuInit, (unsigned flags)) \
    X(driver_version, cuDriverGetVersion, (int *version)) \
    X(error_text, cuGetErrorString, (unsigned result, const char **text)) \
    X(device_get, cuDeviceGet, (int *device, int index)) \
    X(device_name, cuDeviceGetName, (char *name, int size, int device)) \
    X(device_attribute, cuDeviceGetAttribute, (int *value, unsigned attribute, int device)) \
    X(context_retain, cuDevicePrimaryCtxRetain, (struct CUctx_st **context, int device)) \
    X(context_release, cuDevicePrimaryCtxRelease_v2, (int device)) \
    X(context_use, cuCtxSetCurrent, (struct CUctx_st *context)) \
    X(module_load, cuModuleLoadData, (struct CUmod_st **module, const void *code)) \
    X(module_unload, cuModuleUnload, (struct CUmod_st *module)) \
    X(module_kernel, cuModuleGetFunction, \
      (struct CUfunc_st **kernel, struct CUmod_st *module, const char *name)) \
    X(launch, cuLaunchKernel, \
      (struct CUfunc_st *kernel, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z, \
       unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared_size, \
       struct CUstream_st *stream, void **arguments, void **none)) \
    X(memory_info, cuMemGetInfo_v2, (size_t *free, size_t *total)) \
    X(memory_alloc, cuMemAlloc_v2, (cuda_address *memory, size_t size)) \
    X(memory_free, cuMemFree_v2, (cuda_address memory)) \
    X(host_register, cuMemHostRegister_v2, (void *host, size_t size, unsigned flags)) \
    X(host_unregister, cuMemHostUnregister, (void *host)) \
    X(host_pointer, cuMemHostGetDevicePointer_v2, \
      (cuda_address *memory, void *host, unsigned flags)) \
    X(copy_in, cuMemcpyHtoDAsync_v2, \
      (cuda_address to, const void *host, size_t size, struct CUstream_st *stream)) \
    X(copy_out, cuMemcpyDtoHAsync_v2, \
      (void *host, cuda_address from, size_t size, struct CUstream_st *stream)) \
    X(stream_new, cuStreamCreate, (struct CUstream_st **stream, unsigned flags)) \
    X(stream_free, cuStreamDestroy_v2, (struct CUstream_st *stream)) \
    X(stream_wait, cuStreamSynchronize, (struct CUstream_st *stream)) \
    X(stream_wait_event, cuStreamWaitEvent, \
      (struct CUstream_st *stream, struct CUevent_st *event, unsigned flags)) \
    X(event_new, cuEventCreate, (struct CUevent_st **event, unsigned flags)) \
    X(event_free, cuEventDestroy_v2, (struct CUevent_st *event)) \
    X(event_record, cuEventRecord, (struct CUevent_st *event, struct CUstream_st *stream)) \
    X(event_query, cuEventQuery, (struct CUevent_st *event)) \
    X(event_wait, cuEventSynchronize, (struct CUevent_st *event)) \
    X(event_elapsed, cuEventElapsedTime, \
      (float *milliseconds, struct CUevent_st *from, struct CUevent_st *to))
/* clang-format on */

struct cuda_api {
#define CUDA_API_MEMBER(name, symbol, arguments) unsigned(*name) arguments;
    CUDA_API(CUDA_API_MEMBER)
#undef CUDA_API_MEMBER
    void *library; /* cuda_api.c's */
};

/* Kernels that were compiled by nvcc 13 are taken by drivers for CUDA 13.0 and newer. */
#define CUDA_DRIVER_VERSION 13000

/* Loads a driver, libcuda.so.1 where library is NULL, and starts it. -ENODEV with a sentence for
 * the user in message[size]: there is no driver, it lacks a function, is too old, or finds no GPU. */
int cuda_api_open(struct cuda_api *api, const char *library, char *message, size_t size);
void cuda_api_close(struct cuda_api *api);

#endif
