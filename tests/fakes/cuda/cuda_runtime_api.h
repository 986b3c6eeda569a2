/* The CUDA runtime's C interface, as far as the fake has it (cuda_fake.h): names, values and signatures of CUDA 13. */
#ifndef TESTS_FAKES_CUDA_CUDA_RUNTIME_API_H
#define TESTS_FAKES_CUDA_CUDA_RUNTIME_API_H

#include <stddef.h>

#include <vector_types.h>

#define CUDART_VERSION 13000

#ifdef __cplusplus
#define CUDA_FAKE_DEFAULT(value) = value
extern "C" {
#else
#define CUDA_FAKE_DEFAULT(value)
#endif

/* name, value, text */
#define CUDA_FAKE_ERRORS(E)                                                                                  \
	E(cudaSuccess, 0, "no error")                                                                        \
	E(cudaErrorInvalidValue, 1, "invalid argument")                                                      \
	E(cudaErrorMemoryAllocation, 2, "out of memory")                                                     \
	E(cudaErrorInitializationError, 3, "initialization error")                                           \
	E(cudaErrorCudartUnloading, 4, "driver shutting down")                                               \
	E(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")                                \
	E(cudaErrorInvalidDevicePointer, 17, "invalid device pointer")                                       \
	E(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy")                          \
	E(cudaErrorStubLibrary, 34, "CUDA driver is a stub library")                                         \
	E(cudaErrorInsufficientDriver, 35, "CUDA driver version is insufficient for CUDA runtime version")   \
	E(cudaErrorDevicesUnavailable, 46, "CUDA-capable device(s) is/are busy or unavailable")              \
	E(cudaErrorInvalidDeviceFunction, 98, "invalid device function")                                     \
	E(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                                      \
	E(cudaErrorInvalidDevice, 101, "invalid device ordinal")                                             \
	E(cudaErrorNoKernelImageForDevice, 209, "no kernel image is available for execution on the device")  \
	E(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered")                             \
	E(cudaErrorUnsupportedPtxVersion, 222,                                                               \
	  "the provided PTX was compiled with an unsupported toolchain.")                                    \
	E(cudaErrorOperatingSystem, 304, "OS call failed or operation not supported on this OS")             \
	E(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")                                    \
	E(cudaErrorIllegalState, 401, "the operation cannot be performed in the present state")              \
	E(cudaErrorNotReady, 600, "device not ready")                                                        \
	E(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered")                          \
	E(cudaErrorLaunchOutOfResources, 701, "too many resources requested for launch")                     \
	E(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated")                            \
	E(cudaErrorAssert, 710, "device-side assert triggered")                                              \
	E(cudaErrorMisalignedAddress, 716, "misaligned address")                                             \
	E(cudaErrorLaunchFailure, 719, "unspecified launch failure")                                         \
	E(cudaErrorNotPermitted, 800, "operation not permitted")                                             \
	E(cudaErrorNotSupported, 801, "operation not supported")                                             \
	E(cudaErrorSystemNotReady, 802, "system not yet initialized")                                        \
	E(cudaErrorSystemDriverMismatch, 803,                                                                \
	  "system has unsupported display driver / cuda driver combination")                                 \
	E(cudaErrorCompatNotSupportedOnDevice, 804,                                                          \
	  "forward compatibility was attempted on non supported HW")                                         \
	E(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing")        \
	E(cudaErrorStreamCaptureInvalidated, 901, "operation failed due to a previous error during capture") \
	E(cudaErrorStreamCaptureUnmatched, 903, "capture was not ended in the same stream as it began")      \
	E(cudaErrorStreamCaptureImplicit, 906,                                                               \
	  "operation would make the legacy stream depend on a capturing "                                    \
	  "blocking stream")                                                                                 \
	E(cudaErrorCapturedEvent, 907,                                                                       \
	  "operation not permitted on an event last recorded in a capturing stream")                         \
	E(cudaErrorUnknown, 999, "unknown error")

enum cudaError {
#define CUDA_FAKE_ERROR(name, value, text) name = value,
	CUDA_FAKE_ERRORS(CUDA_FAKE_ERROR)
#undef CUDA_FAKE_ERROR
};
typedef enum cudaError cudaError_t;

cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);

/* ---- devices ---- */

enum cudaDeviceAttr {
	cudaDevAttrMaxThreadsPerBlock = 1,
	cudaDevAttrMaxBlockDimX = 2,
	cudaDevAttrMaxBlockDimY = 3,
	cudaDevAttrMaxBlockDimZ = 4,
	cudaDevAttrMaxGridDimX = 5,
	cudaDevAttrMaxGridDimY = 6,
	cudaDevAttrMaxGridDimZ = 7,
	cudaDevAttrMaxSharedMemoryPerBlock = 8,
	cudaDevAttrTotalConstantMemory = 9,
	cudaDevAttrWarpSize = 10,
	cudaDevAttrMaxRegistersPerBlock = 12,
	cudaDevAttrClockRate = 13,
	cudaDevAttrMultiProcessorCount = 16,
	cudaDevAttrIntegrated = 18,
	cudaDevAttrEccEnabled = 32,
	cudaDevAttrPciBusId = 33,
	cudaDevAttrPciDeviceId = 34,
	cudaDevAttrMemoryClockRate = 36,
	cudaDevAttrGlobalMemoryBusWidth = 37,
	cudaDevAttrL2CacheSize = 38,
	cudaDevAttrMaxThreadsPerMultiProcessor = 39,
	cudaDevAttrUnifiedAddressing = 41,
	cudaDevAttrComputeCapabilityMajor = 75,
	cudaDevAttrComputeCapabilityMinor = 76,
	cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
	cudaDevAttrCooperativeLaunch = 95,
	cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
	cudaDevAttrMaxBlocksPerMultiprocessor = 106,
};

/* Members that CUDA 12 and 13 have both. */
struct cudaDeviceProp {
	char name[256];
	size_t totalGlobalMem;
	size_t sharedMemPerBlock;
	int regsPerBlock;
	int warpSize;
	int maxThreadsPerBlock;
	int maxThreadsDim[3];
	int maxGridSize[3];
	size_t totalConstMem;
	int major;
	int minor;
	int multiProcessorCount;
	int integrated;
	int concurrentKernels;
	int ECCEnabled;
	int pciBusID;
	int pciDeviceID;
	int pciDomainID;
	int unifiedAddressing;
	int memoryBusWidth;
	int l2CacheSize;
	int maxThreadsPerMultiProcessor;
	size_t sharedMemPerMultiprocessor;
	size_t sharedMemPerBlockOptin;
	int maxBlocksPerMultiProcessor;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaDeviceReset(void);

/* ---- streams, events and graphs ---- */

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphNode_st *cudaGraphNode_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

#define cudaStreamDefault      0x00
#define cudaStreamNonBlocking  0x01
#define cudaEventDefault       0x00
#define cudaEventBlockingSync  0x01
#define cudaEventDisableTiming 0x02

enum cudaStreamCaptureMode {
	cudaStreamCaptureModeGlobal = 0,
	cudaStreamCaptureModeThreadLocal = 1,
	cudaStreamCaptureModeRelaxed = 2,
};

enum cudaStreamCaptureStatus {
	cudaStreamCaptureStatusNone = 0,
	cudaStreamCaptureStatusActive = 1,
	cudaStreamCaptureStatusInvalidated = 2,
};

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags CUDA_FAKE_DEFAULT(0));

cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream CUDA_FAKE_DEFAULT(0));
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
				 unsigned long long flags CUDA_FAKE_DEFAULT(0));
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
/* nodes must be NULL: the fake only counts them. */
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

/* ---- memory ---- */

enum cudaMemcpyKind {
	cudaMemcpyHostToHost = 0,
	cudaMemcpyHostToDevice = 1,
	cudaMemcpyDeviceToHost = 2,
	cudaMemcpyDeviceToDevice = 3,
	cudaMemcpyDefault = 4,
};

#define cudaHostAllocDefault       0x00
#define cudaHostAllocPortable      0x01
#define cudaHostAllocMapped        0x02
#define cudaHostAllocWriteCombined 0x04

cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMalloc(void **p, size_t size);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t size);
cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
			    cudaStream_t stream CUDA_FAKE_DEFAULT(0));
cudaError_t cudaMemset(void *p, int value, size_t size);
cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t stream CUDA_FAKE_DEFAULT(0));

/* ---- kernels ---- */

enum cudaFuncAttribute {
	cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
	cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};

struct cudaFuncAttributes {
	size_t sharedSizeBytes;
	size_t constSizeBytes;
	size_t localSizeBytes;
	int maxThreadsPerBlock;
	int numRegs;
	int ptxVersion;
	int binaryVersion;
	int cacheModeCA;
	int maxDynamicSharedSizeBytes;
	int preferredShmemCarveout;
};

enum cudaLaunchAttributeID {
	cudaLaunchAttributeProgrammaticStreamSerialization = 6
}; /* the fake knows no other */

typedef union cudaLaunchAttributeValue {
	char pad[64];
	int programmaticStreamSerializationAllowed;
} cudaLaunchAttributeValue;

typedef struct cudaLaunchAttribute_st {
	enum cudaLaunchAttributeID id;
	char pad[4];
	cudaLaunchAttributeValue val;
} cudaLaunchAttribute;

typedef struct cudaLaunchConfig_st {
	dim3 gridDim;
	dim3 blockDim;
	size_t dynamicSmemBytes;
	cudaStream_t stream;
	cudaLaunchAttribute *attrs;
	unsigned numAttrs;
} cudaLaunchConfig_t;

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value);
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr, const void *kernel);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int block_size,
							  size_t dynamic_shared);

#ifdef __cplusplus
}
#endif
#endif
