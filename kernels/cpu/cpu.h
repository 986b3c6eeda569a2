/* The CPU backend's operations: cpu_rmsnorm and so on, one for every line of ops.h. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/kernels.h"

#define OP(name) void cpu_##name
#include "kernels/ops.h"
#undef OP

#endif
