/* The runtime's interface: errors, devices, streams, events, capture, copies and launches. */
#include "internal.h"

#include <pthread.h>
#include <time.h>

#define STREAM_MAGIC 0x53545245u
#define EVENT_MAGIC  0x4556454eu
#define GRAPH_MAGIC  0x47524150u
#define EXEC_MAGIC   0x45584543u
#define FUNCTIONS    4096 /* kernels whose attributes were set */

/* Something that a graph does. */
struct work {
	struct work *next;
	void (*run)(const void *data);
	alignas(64) char data[];
};

struct works {
	struct work *first, **end;
	size_t count;
	int users; /* graphs and execs that hold it */
};

struct CUstream_st {
	unsigned magic;
	unsigned flags;
	int device;
	enum cudaStreamCaptureStatus status;
	enum cudaStreamCaptureMode mode;
	pthread_t capturer;
	struct works *works; /* captured so far */
	struct CUstream_st *next;
};

struct CUevent_st {
	unsigned magic;
	unsigned flags;
	bool recorded, captured;
	struct timespec at;
};

struct CUgraph_st {
	unsigned magic;
	struct works *works;
};

struct CUgraphExec_st {
	unsigned magic;
	struct works *works;
};

struct pinned {
	struct pinned *next;
	char *p;
	size_t size;
};

static struct {
	pthread_mutex_t lock;
	int devices, driver, major, minor; /* -1 devices, major: by the environment */
	int fail_after;
	cudaError_t fail_code;
	struct cuda_fake_counts counts;
	struct CUstream_st *streams;
	struct {
		const void *kernel;
		int shared;
	} functions[FUNCTIONS];
	int n_functions;
	struct pinned *pinned;
} rt = {PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP,
	-1,
	CUDART_VERSION,
	-1,
	0,
	0,
	cudaSuccess,
	{},
	NULL,
	{},
	0,
	NULL};

static __thread int current_device;
static __thread cudaError_t last_error;

struct cuda_fake_counts &counts(void)
{
	return rt.counts;
}

static int devices(void)
{
	const char *n = getenv("CUDA_FAKE_DEVICES");

	return rt.devices >= 0 ? rt.devices : n ? atoi(n) : 1;
}

/* Compute capability: 10 * major + minor. */
static int capability(void)
{
	const char *n = getenv("CUDA_FAKE_CAPABILITY");

	return rt.major >= 0 ? 10 * rt.major + rt.minor : n ? atoi(n) : 90;
}

api::api(bool needs_device) : code(cudaSuccess)
{
	pthread_mutex_lock(&rt.lock);
	rt.counts.calls++;
	if (rt.fail_after > 0 && --rt.fail_after == 0)
		fail(rt.fail_code);
	else if (needs_device && rt.driver / 1000 < CUDART_VERSION / 1000)
		fail(cudaErrorInsufficientDriver);
	else if (needs_device && devices() == 0)
		fail(cudaErrorNoDevice);
}

api::~api()
{
	pthread_mutex_unlock(&rt.lock);
}

cudaError_t api::fail(cudaError_t what)
{
	code = what;
	if (what != cudaSuccess)
		last_error = what;
	return what;
}

/* ---- hooks ---- */

void cuda_fake_set_device_count(int n)
{
	rt.devices = n;
}

void cuda_fake_set_driver(int version)
{
	rt.driver = version;
}

void cuda_fake_set_capability(int major, int minor)
{
	rt.major = major;
	rt.minor = minor;
}

void cuda_fake_set_memory(uint64_t bytes)
{
	memory_set_limit(bytes);
}

void cuda_fake_fail_after(int n, cudaError_t code)
{
	rt.fail_after = n;
	rt.fail_code = code;
}

void cuda_fake_reset(void)
{
	rt.devices = -1;
	rt.driver = CUDART_VERSION;
	rt.major = -1;
	rt.fail_after = 0;
	last_error = cudaSuccess;
	current_device = 0;
	memory_set_limit((uint64_t)8 << 30);
}

struct cuda_fake_counts cuda_fake_count(void)
{
	struct cuda_fake_counts c = rt.counts;

	c.allocations = memory_allocations();
	c.bytes = memory_used();
	return c;
}

/* ---- errors ---- */

cudaError_t cudaGetLastError(void)
{
	cudaError_t code = last_error;

	last_error = cudaSuccess;
	return code;
}

cudaError_t cudaPeekAtLastError(void)
{
	return last_error;
}

const char *cudaGetErrorName(cudaError_t error)
{
	switch (error) {
#define NAME(name, value, text)                                                                              \
	case name: return #name;
		CUDA_FAKE_ERRORS(NAME)
#undef NAME
	}
	return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
	switch (error) {
#define TEXT(name, value, text)                                                                              \
	case name: return text;
		CUDA_FAKE_ERRORS(TEXT)
#undef TEXT
	}
	return "unrecognized error code";
}

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
	api a;

	*count = 0;
	if (a.code == cudaSuccess)
		*count = devices();
	return a.code;
}

cudaError_t cudaSetDevice(int device)
{
	api a;

	if (a.code)
		return a.code;
	if (device < 0 || device >= devices())
		return a.fail(cudaErrorInvalidDevice);
	current_device = device;
	return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
	api a;

	if (!a.code)
		*device = current_device;
	return a.code;
}

/* 0 for what the fake does not know. */
static int attribute(int attr)
{
	switch (attr) {
	case cudaDevAttrMaxThreadsPerBlock: return MAX_THREADS;
	case cudaDevAttrMaxBlockDimX: return MAX_THREADS;
	case cudaDevAttrMaxBlockDimY: return MAX_THREADS;
	case cudaDevAttrMaxBlockDimZ: return 64;
	case cudaDevAttrMaxGridDimX: return INT_MAX;
	case cudaDevAttrMaxGridDimY: return 65535;
	case cudaDevAttrMaxGridDimZ: return 65535;
	case cudaDevAttrMaxSharedMemoryPerBlock: return SHARED_PLAIN;
	case cudaDevAttrTotalConstantMemory: return 65536;
	case cudaDevAttrWarpSize: return 32;
	case cudaDevAttrMaxRegistersPerBlock: return 65536;
	case cudaDevAttrClockRate: return 1980000;
	case cudaDevAttrMultiProcessorCount: return MULTIPROCESSORS;
	case cudaDevAttrMemoryClockRate: return 2619000;
	case cudaDevAttrGlobalMemoryBusWidth: return 5120;
	case cudaDevAttrL2CacheSize: return 50 << 20;
	case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
	case cudaDevAttrUnifiedAddressing: return 1;
	case cudaDevAttrComputeCapabilityMajor: return capability() / 10;
	case cudaDevAttrComputeCapabilityMinor: return capability() % 10;
	case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return SHARED_OPTIN + 1024;
	case cudaDevAttrMaxSharedMemoryPerBlockOptin: return SHARED_OPTIN;
	case cudaDevAttrMaxBlocksPerMultiprocessor: return 32;
	case cudaDevAttrPciDeviceId: return 1;
	}
	return 0;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
	api a;

	if (a.code)
		return a.code;
	if (device < 0 || device >= devices())
		return a.fail(cudaErrorInvalidDevice);
	*value = attribute(attr);
	return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
	api a;

	if (a.code)
		return a.code;
	if (device < 0 || device >= devices())
		return a.fail(cudaErrorInvalidDevice);
	memset(p, 0, sizeof *p);
	snprintf(p->name, sizeof p->name, "NVIDIA Fake %d", device);
	p->totalGlobalMem = memory_limit();
	p->sharedMemPerBlock = SHARED_PLAIN;
	p->regsPerBlock = 65536;
	p->warpSize = 32;
	p->maxThreadsPerBlock = MAX_THREADS;
	for (int i = 0; i < 3; i++) {
		p->maxThreadsDim[i] = attribute(cudaDevAttrMaxBlockDimX + i);
		p->maxGridSize[i] = attribute(cudaDevAttrMaxGridDimX + i);
	}
	p->totalConstMem = 65536;
	p->major = capability() / 10;
	p->minor = capability() % 10;
	p->multiProcessorCount = MULTIPROCESSORS;
	p->concurrentKernels = 1;
	p->pciDeviceID = device;
	p->unifiedAddressing = 1;
	p->memoryBusWidth = attribute(cudaDevAttrGlobalMemoryBusWidth);
	p->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
	p->maxThreadsPerMultiProcessor = 2048;
	p->sharedMemPerMultiprocessor = SHARED_OPTIN + 1024;
	p->sharedMemPerBlockOptin = SHARED_OPTIN;
	p->maxBlocksPerMultiProcessor = 32;
	return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
	api a(false);

	if (!a.code)
		*version = rt.driver;
	return a.code;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
	api a(false);

	if (!a.code)
		*version = CUDART_VERSION;
	return a.code;
}

/* ---- streams ---- */

static cudaStream_t stream_of(cudaStream_t s, const char *what)
{
	for (struct CUstream_st *i = rt.streams; i; i = i->next)
		if (i == s)
			return s;
	stop("%s: %p is no stream", what, (void *)s);
}

static bool capturing(const struct CUstream_st *s)
{
	return s->status != cudaStreamCaptureStatusNone;
}

/* A call that captures do not permit: those that it concerns are no good any more. */
static bool forbidden(void)
{
	bool found = false;

	for (struct CUstream_st *s = rt.streams; s; s = s->next)
		if (capturing(s) && (s->mode == cudaStreamCaptureModeGlobal ||
				     (s->mode == cudaStreamCaptureModeThreadLocal &&
				      pthread_equal(s->capturer, pthread_self())))) {
			s->status = cudaStreamCaptureStatusInvalidated;
			found = true;
		}
	return found;
}

/* The same for one that waits for everything. */
static bool forbidden_to_wait(void)
{
	bool found = false;

	for (struct CUstream_st *s = rt.streams; s; s = s->next)
		if (capturing(s)) {
			s->status = cudaStreamCaptureStatusInvalidated;
			found = true;
		}
	return found;
}

/* The legacy stream waits for streams that were not created cudaStreamNonBlocking. */
static bool forbidden_to_legacy(void)
{
	bool found = false;

	for (struct CUstream_st *s = rt.streams; s; s = s->next)
		if (capturing(s) && !(s->flags & cudaStreamNonBlocking)) {
			s->status = cudaStreamCaptureStatusInvalidated;
			found = true;
		}
	return found;
}

/* Whether the work that is done now comes directly behind a kernel that called grid_next, and whether the next one does. */
static bool behind_next, next_behind;

static void work_one(void (*run)(const void *data), const void *data)
{
	behind_next = next_behind;
	next_behind = false;
	run(data);
}

static void work_do(void (*run)(const void *data), const void *data)
{
	memory_open();
	work_one(run, data);
	memory_close();
}

cudaError_t stream_do(cudaStream_t stream, const char *what, void (*run)(const void *data), const void *data,
		      size_t size)
{
	struct work *w;

	if (!stream && forbidden_to_legacy())
		return cudaErrorStreamCaptureImplicit;
	if (!stream || !capturing(stream_of(stream, what))) {
		work_do(run, data);
		return cudaSuccess;
	}
	if (stream->status == cudaStreamCaptureStatusInvalidated)
		return cudaErrorStreamCaptureInvalidated;
	if (posix_memalign((void **)&w, 64, (sizeof *w + size + 63) / 64 * 64))
		stop("no memory for a graph");
	w->next = NULL;
	w->run = run;
	memcpy(w->data, data, size);
	*stream->works->end = w;
	stream->works->end = &w->next;
	stream->works->count++;
	return cudaSuccess;
}

static struct works *works_new(void)
{
	struct works *w = (struct works *)calloc(1, sizeof *w);

	w->end = &w->first;
	w->users = 1;
	return w;
}

static void works_drop(struct works *w)
{
	if (!w || --w->users > 0)
		return;
	for (struct work *i = w->first, *next; i; i = next) {
		next = i->next;
		free(i);
	}
	free(w);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
	api a;
	struct CUstream_st *s;

	if (a.code)
		return a.code;
	if (flags & ~cudaStreamNonBlocking)
		return a.fail(cudaErrorInvalidValue);
	s = (struct CUstream_st *)calloc(1, sizeof *s);
	s->magic = STREAM_MAGIC;
	s->flags = flags;
	s->device = current_device;
	s->next = rt.streams;
	rt.streams = s;
	rt.counts.streams++;
	*stream = s;
	return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
	return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

static void stream_free(struct CUstream_st *s)
{
	struct CUstream_st **at = &rt.streams;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	works_drop(s->works);
	s->magic = 0;
	free(s);
	rt.counts.streams--;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	api a;

	if (a.code)
		return a.code;
	stream_free(stream_of(stream, "cudaStreamDestroy"));
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	api a;

	if (a.code)
		return a.code;
	if (!stream)
		return forbidden_to_legacy() ? a.fail(cudaErrorStreamCaptureImplicit) : cudaSuccess;
	if (!capturing(stream_of(stream, "cudaStreamSynchronize")))
		return cudaSuccess;
	stream->status = cudaStreamCaptureStatusInvalidated;
	return a.fail(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
	return cudaStreamSynchronize(stream);
}

cudaError_t cudaDeviceSynchronize(void)
{
	api a;

	if (a.code)
		return a.code;
	return forbidden_to_wait() ? a.fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
	api a;

	if (a.code)
		return a.code;
	while (rt.streams)
		stream_free(rt.streams);
	memory_free_all();
	rt.n_functions = 0;
	return cudaSuccess;
}

/* ---- events ---- */

static void event_check(cudaEvent_t e, const char *what)
{
	if (!e || e->magic != EVENT_MAGIC)
		stop("%s: %p is no event", what, (void *)e);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
	api a;

	if (a.code)
		return a.code;
	if (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming))
		return a.fail(cudaErrorInvalidValue);
	*event = (cudaEvent_t)calloc(1, sizeof **event);
	(*event)->magic = EVENT_MAGIC;
	(*event)->flags = flags;
	rt.counts.events++;
	return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
	return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	api a;

	if (a.code)
		return a.code;
	event_check(event, "cudaEventRecord");
	if (!stream && forbidden_to_legacy())
		return a.fail(cudaErrorStreamCaptureImplicit);
	if (stream && stream_of(stream, "cudaEventRecord")->status == cudaStreamCaptureStatusInvalidated)
		return a.fail(cudaErrorStreamCaptureInvalidated);
	event->captured = stream && capturing(stream);
	event->recorded = true;
	clock_gettime(CLOCK_MONOTONIC, &event->at);
	return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
	api a;

	if (a.code)
		return a.code;
	event_check(event, "cudaEventSynchronize");
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureUnsupported);
	return event->captured ? a.fail(cudaErrorCapturedEvent) : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
	return cudaEventSynchronize(event);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
	api a;

	if (a.code)
		return a.code;
	event_check(start, "cudaEventElapsedTime");
	event_check(end, "cudaEventElapsedTime");
	if (!start->recorded || !end->recorded || ((start->flags | end->flags) & cudaEventDisableTiming))
		return a.fail(cudaErrorInvalidResourceHandle);
	if (start->captured || end->captured)
		return a.fail(cudaErrorCapturedEvent);
	*ms = (float)((double)(end->at.tv_sec - start->at.tv_sec) * 1e3 +
		      (double)(end->at.tv_nsec - start->at.tv_nsec) * 1e-6);
	return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	api a;

	if (a.code)
		return a.code;
	event_check(event, "cudaEventDestroy");
	event->magic = 0;
	free(event);
	rt.counts.events--;
	return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
	api a;

	if (a.code)
		return a.code;
	event_check(event, "cudaStreamWaitEvent");
	if (flags)
		return a.fail(cudaErrorInvalidValue);
	if (event->captured || (stream && capturing(stream_of(stream, "cudaStreamWaitEvent"))))
		stop("cudaStreamWaitEvent in a capture: the fake captures one stream");
	if (!stream && forbidden_to_legacy())
		return a.fail(cudaErrorStreamCaptureImplicit);
	return cudaSuccess;
}

/* ---- capture and graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
	api a;

	if (a.code)
		return a.code;
	if (!stream)
		return a.fail(cudaErrorStreamCaptureUnsupported);
	if (capturing(stream_of(stream, "cudaStreamBeginCapture")))
		return a.fail(cudaErrorIllegalState);
	stream->status = cudaStreamCaptureStatusActive;
	stream->mode = mode;
	stream->capturer = pthread_self();
	stream->works = works_new();
	return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
	api a;
	bool valid;

	if (a.code)
		return a.code;
	*graph = NULL;
	if (!stream || !capturing(stream_of(stream, "cudaStreamEndCapture")))
		return a.fail(cudaErrorIllegalState);
	if (stream->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(stream->capturer, pthread_self()))
		stop("cudaStreamEndCapture in another thread than cudaStreamBeginCapture");
	valid = stream->status == cudaStreamCaptureStatusActive;
	stream->status = cudaStreamCaptureStatusNone;
	if (valid) {
		*graph = (cudaGraph_t)calloc(1, sizeof **graph);
		(*graph)->magic = GRAPH_MAGIC;
		(*graph)->works = stream->works;
		rt.counts.graphs++;
	} else {
		works_drop(stream->works);
	}
	stream->works = NULL;
	return valid ? cudaSuccess : a.fail(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
	api a;

	if (a.code)
		return a.code;
	*status = stream ? stream_of(stream, "cudaStreamIsCapturing")->status : cudaStreamCaptureStatusNone;
	return cudaSuccess;
}

static void graph_check(cudaGraph_t g, const char *what)
{
	if (!g || g->magic != GRAPH_MAGIC)
		stop("%s: %p is no graph", what, (void *)g);
}

static void exec_check(cudaGraphExec_t e, const char *what)
{
	if (!e || e->magic != EXEC_MAGIC)
		stop("%s: %p is no graph that can be launched", what, (void *)e);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
	api a;

	if (a.code)
		return a.code;
	graph_check(graph, "cudaGraphInstantiate");
	if (flags)
		stop("cudaGraphInstantiate with flags");
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureUnsupported);
	*exec = (cudaGraphExec_t)calloc(1, sizeof **exec);
	(*exec)->magic = EXEC_MAGIC;
	(*exec)->works = graph->works;
	graph->works->users++;
	rt.counts.execs++;
	return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
	api a;

	if (a.code)
		return a.code;
	exec_check(exec, "cudaGraphUpload");
	if (stream)
		stream_of(stream, "cudaGraphUpload");
	return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
	api a;

	if (a.code)
		return a.code;
	exec_check(exec, "cudaGraphLaunch");
	if (stream && capturing(stream_of(stream, "cudaGraphLaunch")))
		stop("cudaGraphLaunch in a capture: the fake has no graphs in graphs");
	if (!stream && forbidden_to_legacy())
		return a.fail(cudaErrorStreamCaptureImplicit);
	memory_open();
	next_behind = false;
	for (const struct work *w = exec->works->first; w; w = w->next)
		work_one(w->run, w->data);
	next_behind = false;
	memory_close();
	return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
	api a;

	if (a.code)
		return a.code;
	graph_check(graph, "cudaGraphGetNodes");
	if (nodes)
		stop("cudaGraphGetNodes: the fake only counts nodes");
	*count = graph->works->count;
	return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
	api a;

	if (a.code)
		return a.code;
	exec_check(exec, "cudaGraphExecDestroy");
	works_drop(exec->works);
	exec->magic = 0;
	free(exec);
	rt.counts.execs--;
	return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
	api a;

	if (a.code)
		return a.code;
	graph_check(graph, "cudaGraphDestroy");
	works_drop(graph->works);
	graph->magic = 0;
	free(graph);
	rt.counts.graphs--;
	return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
	api a;

	if (a.code)
		return a.code;
	*total = memory_limit();
	*free_bytes = memory_used() < *total ? *total - memory_used() : 0;
	return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t size)
{
	api a;

	if (a.code)
		return a.code;
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureUnsupported);
	*p = NULL;
	return size == 0 ? cudaSuccess : a.fail(memory_alloc(size, p));
}

cudaError_t cudaFree(void *p)
{
	api a;

	if (a.code)
		return a.code;
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureUnsupported);
	if (p)
		memory_free(p);
	return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags)
{
	api a;
	struct pinned *m;

	if (a.code)
		return a.code;
	if (flags & ~(cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined))
		return a.fail(cudaErrorInvalidValue);
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureUnsupported);
	*p = NULL;
	if (size == 0)
		return cudaSuccess;
	if (posix_memalign(p, 4096, size))
		return a.fail(cudaErrorMemoryAllocation);
	memset(*p, POISON, size);
	m = (struct pinned *)malloc(sizeof *m);
	*m = {rt.pinned, (char *)*p, size};
	rt.pinned = m;
	rt.counts.pinned++;
	return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t size)
{
	return cudaHostAlloc(p, size, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *p)
{
	api a;
	struct pinned **at = &rt.pinned, *m;

	if (a.code)
		return a.code;
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureUnsupported);
	if (!p)
		return cudaSuccess;
	while (*at && (*at)->p != p)
		at = &(*at)->next;
	m = *at;
	if (!m)
		stop("cudaFreeHost of %p, which does not come from cudaMallocHost", p);
	*at = m->next;
	free(m);
	free(p);
	rt.counts.pinned--;
	return cudaSuccess;
}

static bool is_pinned(const void *p, size_t size)
{
	for (const struct pinned *m = rt.pinned; m; m = m->next)
		if ((const char *)p >= m->p && (const char *)p + size <= m->p + m->size)
			return true;
	return false;
}

struct copy {
	void *to;
	const void *from;
	size_t size;
};

static void copy_run(const void *data)
{
	const struct copy *c = (const struct copy *)data;

	if ((const char *)c->to < (const char *)c->from + c->size &&
	    (const char *)c->from < (const char *)c->to + c->size)
		stop("a copy of %zu bytes from %p to %p, which overlap", c->size, c->from, c->to);
	memcpy(c->to, c->from, c->size);
}

/* One side of a copy is what its kind says, device or host. */
static void side_check(const char *what, const char *side, const void *p, size_t size, bool device)
{
	if (device && !memory_is_device(p, size))
		stop("%s: %zu bytes at %p (%s) are not in one allocation of device memory", what, size, p,
		     side);
	if (!device && memory_in_range(p))
		stop("%s: %p (%s) is in device memory, and the kind says host", what, p, side);
}

static cudaError_t copy_check(const char *what, const struct copy *c, enum cudaMemcpyKind kind)
{
	if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
		return cudaErrorInvalidMemcpyDirection;
	if (kind == cudaMemcpyDefault)
		kind = (enum cudaMemcpyKind)((memory_in_range(c->to) ? 1 : 0) +
					     (memory_in_range(c->from) ? 2 : 0));
	side_check(what, "to", c->to, c->size, kind & 1);
	side_check(what, "from", c->from, c->size, kind & 2);
	return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
	api a;
	struct copy c = {to, from, size};

	if (a.code || size == 0)
		return a.code;
	if (a.fail(copy_check("cudaMemcpy", &c, kind)))
		return a.code;
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureImplicit);
	return a.fail(stream_do(NULL, "cudaMemcpy", copy_run, &c, sizeof c));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
			    cudaStream_t stream)
{
	api a;
	struct copy c = {to, from, size};

	if (a.code || size == 0)
		return a.code;
	if (a.fail(copy_check("cudaMemcpyAsync", &c, kind)))
		return a.code;
	if (stream && stream_of(stream, "cudaMemcpyAsync")->status == cudaStreamCaptureStatusActive &&
	    ((!memory_in_range(from) && !is_pinned(from, size)) ||
	     (!memory_in_range(to) && !is_pinned(to, size)))) {
		stream->status = cudaStreamCaptureStatusInvalidated;
		return a.fail(cudaErrorStreamCaptureUnsupported);
	}
	return a.fail(stream_do(stream, "cudaMemcpyAsync", copy_run, &c, sizeof c));
}

struct fill {
	void *p;
	int value;
	size_t size;
};

static void fill_run(const void *data)
{
	const struct fill *f = (const struct fill *)data;

	memset(f->p, f->value, f->size);
}

static cudaError_t fill(const char *what, void *p, int value, size_t size, cudaStream_t stream)
{
	struct fill f = {p, value, size};

	side_check(what, "to", p, size, true);
	return stream_do(stream, what, fill_run, &f, sizeof f);
}

cudaError_t cudaMemset(void *p, int value, size_t size)
{
	api a;

	if (a.code || size == 0)
		return a.code;
	if (forbidden())
		return a.fail(cudaErrorStreamCaptureImplicit);
	return a.fail(fill("cudaMemset", p, value, size, NULL));
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t stream)
{
	api a;

	if (a.code || size == 0)
		return a.code;
	return a.fail(fill("cudaMemsetAsync", p, value, size, stream));
}

/* ---- kernels ---- */

/* Dynamic shared memory that the kernel may be launched with. */
static int *function_shared(const void *kernel)
{
	int i = 0;

	if (!kernel)
		stop("a kernel that is NULL");
	while (i < rt.n_functions && rt.functions[i].kernel != kernel)
		i++;
	if (i == FUNCTIONS)
		stop("more than %d kernels", FUNCTIONS);
	if (i == rt.n_functions)
		rt.functions[rt.n_functions++] = {kernel, SHARED_PLAIN};
	return &rt.functions[i].shared;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value)
{
	api a;

	if (a.code)
		return a.code;
	if (attr == cudaFuncAttributePreferredSharedMemoryCarveout)
		return value < -1 || value > 100 ? a.fail(cudaErrorInvalidValue) : cudaSuccess;
	if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > SHARED_OPTIN)
		return a.fail(cudaErrorInvalidValue);
	*function_shared(kernel) = value;
	return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr, const void *kernel)
{
	api a;

	if (a.code)
		return a.code;
	memset(attr, 0, sizeof *attr);
	attr->maxThreadsPerBlock = MAX_THREADS;
	attr->numRegs = 32;
	attr->binaryVersion = attr->ptxVersion = capability();
	attr->maxDynamicSharedSizeBytes = *function_shared(kernel);
	attr->preferredShmemCarveout = -1;
	return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int block_size,
							  size_t dynamic_shared)
{
	api a;

	if (a.code)
		return a.code;
	if (block_size < 1)
		return a.fail(cudaErrorInvalidValue);
	*blocks = block_size > MAX_THREADS || dynamic_shared > (size_t)*function_shared(kernel) ? 0 : 2;
	return cudaSuccess;
}

struct launch {
	struct kernel_launch kernel;
	alignas(64) char call[];
};

static void launch_run(const void *data)
{
	const struct launch *l = (const struct launch *)data;
	struct kernel_launch k = l->kernel;

	k.call = l->call;
	k.ahead = behind_next;
	rt.counts.launches++;
	next_behind = kernel_run(&k);
	memory_check(k.kernel);
}

cudaError_t cuda_fake_launch(const cudaLaunchConfig_t *config, const void *kernel,
			     void (*run)(const void *call), const void *call, size_t size)
{
	api a;
	const dim3 &g = config->gridDim, &b = config->blockDim;
	struct launch *l;

	if (a.code)
		return a.code;
	if (!kernel)
		stop("cudaLaunchKernelEx of a kernel that is NULL");
	bool overlaps = false;

	for (unsigned i = 0; i < config->numAttrs; i++) {
		if (config->attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization)
			stop("kernel %s: the fake does not know launch attribute %d", function_name(kernel),
			     config->attrs[i].id);
		overlaps = config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
	}
	if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > INT_MAX || g.y > 65535 || g.z > 65535)
		stop("kernel %s: a grid of %u x %u x %u", function_name(kernel), g.x, g.y, g.z);
	if (b.x == 0 || b.y == 0 || b.z == 0 || b.x > MAX_THREADS || b.y > MAX_THREADS || b.z > 64 ||
	    b.x * b.y * b.z > MAX_THREADS)
		stop("kernel %s: a block of %u x %u x %u", function_name(kernel), b.x, b.y, b.z);
	if (config->dynamicSmemBytes > SHARED_PLAIN &&
	    config->dynamicSmemBytes > (size_t)*function_shared(kernel))
		stop("kernel %s: %zu bytes of dynamic shared memory, and at most %d without "
		     "cudaFuncSetAttribute",
		     function_name(kernel), config->dynamicSmemBytes, *function_shared(kernel));
	if (config->dynamicSmemBytes > (size_t)*function_shared(kernel))
		stop("kernel %s: %zu bytes of dynamic shared memory, and cudaFuncSetAttribute said %d",
		     function_name(kernel), config->dynamicSmemBytes, *function_shared(kernel));
	if (config->stream && stream_of(config->stream, "cudaLaunchKernelEx")->device != current_device)
		return a.fail(cudaErrorInvalidResourceHandle);
	if (posix_memalign((void **)&l, 64, (sizeof *l + size + 63) / 64 * 64))
		stop("no memory for a launch");
	l->kernel = {kernel, run, NULL, g, b, config->dynamicSmemBytes, overlaps, false};
	memcpy(l->call, call, size);
	a.fail(stream_do(config->stream, "cudaLaunchKernelEx", launch_run, l, sizeof *l + size));
	free(l);
	return a.code;
}
