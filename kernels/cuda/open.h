/* The CUDA backend's way in, which kernels/device.c calls: what device_cuda_count, device_cuda_info and device_open
 * (device.h) say. */
#ifndef KERNELS_CUDA_OPEN_H
#define KERNELS_CUDA_OPEN_H

#include "kernels/device.h"

int cuda_count(struct error *why);
int cuda_info(int ordinal, struct device_info *out, struct error *err);
int cuda_open(int ordinal, enum dtype act, struct device **out, struct error *err);

#endif
