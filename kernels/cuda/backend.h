/* SPDX-License-Identifier: MIT
 *
 * A GPU as a backend, or the emulator of one: whatever the table of a driver leads to.
 *
 * One thread. Streams are the two queues; nothing is asked of the default stream. Activations are
 * int8, or floats with plain floats: the reference with all formats is the processor's. A product with
 * several columns takes sixteen, or eight, of them at a time (kernels.h).
 */
#ifndef KERNELS_CUDA_BACKEND_H
#define KERNELS_CUDA_BACKEND_H

#include "codec/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_api.h"

/* api: a driver that was opened (cuda_api.h), which has to live as long. code: what module_load takes,
 * for the emulator NULL. -ENODEV with a sentence where the driver does not take it, -ENOMEM. */
int backend_cuda_open(const struct cuda_api *api, const void *code, struct backend **out,
                      struct error *err);

#endif
