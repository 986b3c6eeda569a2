/* anneal doctor: what this machine has and lacks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sqlite3.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/dynlib.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/text.h"
#include "kernels/device.h"

extern const struct command cmd_doctor;

/* The findings, in order. */
struct report {
	struct table table;
	json_t *json;
	bool missing; /* something without which pipelines cannot run */
};

static void tell(struct report *r, const char *name, const char *value, const char *verdict)
{
	json_t *j = json_object();
	struct strbuf clean = STRBUF_INIT;

	text_clean(&clean, value ? value : "");
	json_object_set_new(j, "value", value ? json_string(clean.data ? clean.data : "") : json_null());
	json_object_set_new(j, "verdict", json_string(verdict));
	json_object_set_new(r->json, name, j);
	table_add(&r->table, name);
	table_add(&r->table, value ? clean.data : "-");
	table_add(&r->table, strcmp(verdict, "ok") ? verdict : "");
	strbuf_free(&clean);
}

/* ---- the machine ---- */

/* What stands behind "key" and a colon in a file of /proc; the caller frees it. */
static char *proc_value(const char *path, const char *key)
{
	size_t size, n = strlen(key);
	char *text = file_read(path, &size, NULL), *found = NULL;

	for (char *line = text; line && !found; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n))
			continue;
		char *colon = line + n + strspn(line + n, " \t");
		if (*colon != ':')
			continue;
		colon += 1 + strspn(colon + 1, " \t");
		found = strndup(colon, strcspn(colon, "\n"));
	}
	free(text);
	return found;
}

static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = text; (at = strstr(at, word)); at += n)
		if ((at == text || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
			return true;
	return false;
}

static void tell_processor(struct report *r)
{
	static const char *const features[] = {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "sha_ni"};
	char *model = proc_value("/proc/cpuinfo", "model name"),
	     *flags = proc_value("/proc/cpuinfo", "flags"), cores[64];
	struct strbuf b = STRBUF_INIT;

	snprintf(cores, sizeof cores, "%ld cores", sysconf(_SC_NPROCESSORS_ONLN));
	strbuf_addf(&b, "%s, %s", model ? model : "unknown", cores);
	tell(r, "processor", b.data, "ok");
	strbuf_clear(&b);
	for (size_t i = 0; flags && i < sizeof features / sizeof *features; i++)
		if (has_word(flags, features[i]))
			strbuf_addf(&b, "%s%s", b.len ? " " : "", features[i]);
	tell(r, "instructions", b.data ? b.data : "",
	     flags && !has_word(flags, "avx2") ? "slow: there is no avx2" : "ok");
	strbuf_free(&b);
	free(model);
	free(flags);
}

static void tell_memory(struct report *r)
{
	char *available = proc_value("/proc/meminfo", "MemAvailable");
	char all[16], text[64] = "";
	uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	format_bytes(bytes, all);
	if (available) {
		char left[16];
		format_bytes(strtoull(available, NULL, 10) << 10, left);
		snprintf(text, sizeof text, "%s, %s available", all, left);
	}
	tell(r, "memory", text[0] ? text : all, "ok");
	free(available);
}

static void version_text(int version, char out[16])
{
	snprintf(out, 16, "%d.%d", version / 1000, version % 1000 / 10);
}

static void tell_gpu_info(struct report *r, const char *row, const struct device_info *g)
{
	char left[16], all[16], driver[16], runtime[16], text[256], capability[16];

	format_bytes(g->free_memory, left);
	format_bytes(g->memory, all);
	version_text(g->driver, driver);
	version_text(g->runtime, runtime);
	snprintf(capability, sizeof capability, "%d.%d", g->major, g->minor);
	snprintf(text, sizeof text,
		 "%s, compute capability %s, %s, %s free, driver for CUDA %s, built with %s", g->name,
		 capability, all, left, driver, runtime);
	tell(r, row, text, "ok");
	json_t *j = json_object_get(r->json, row);

	json_object_set_new(j, "name", json_string(g->name));
	json_object_set_new(j, "compute_capability", json_string(capability));
	json_object_set_new(j, "memory", json_integer((json_int_t)g->memory));
	json_object_set_new(j, "free_memory", json_integer((json_int_t)g->free_memory));
	json_object_set_new(j, "driver", json_string(driver));
	json_object_set_new(j, "runtime", json_string(runtime));
}

/* A machine without a GPU lacks nothing. */
static void tell_gpus(struct report *r)
{
	struct error why = ERROR_INIT;
	struct device_info g;
	char row[16] = "gpu";
	int n = device_cuda_count(&why);

	if (n == 0) {
		char *driver = proc_value("/proc/driver/nvidia/version", "NVRM version");
		struct strbuf b = STRBUF_INIT;

		strbuf_addf(&b, "none: %s%s%s", why.message, driver ? "; the machine has " : "",
			    driver ? driver : "");
		tell(r, row, b.data, "ok");
		strbuf_free(&b);
		free(driver);
	}
	for (int i = 0; i < n; i++) {
		if (i)
			snprintf(row, sizeof row, "gpu %d", i);
		if (device_cuda_info(i, &g, &why))
			tell(r, row, why.message, "it cannot be used");
		else
			tell_gpu_info(r, row, &g);
	}
}

/* ---- the state directory ---- */

static void tell_state(const struct cli *cli, struct report *r)
{
	struct statvfs fs;
	char *at = strdup(cli->state), text[16] = "";

	/* Before the first run it is not there: then what matters is the directory in which it will be made. */
	while (!path_exists(at)) {
		char *up = path_dir(at);
		free(at);
		at = up;
	}
	bool writable = path_is_dir(at) && access(at, W_OK | X_OK) == 0;
	tell(r, "state", cli->state, writable ? "ok" : "missing: it cannot be written");
	r->missing |= !writable;
	if (statvfs(at, &fs) == 0) {
		uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
		bool little = left < (uint64_t)100 << 20;
		format_bytes(left, text);
		tell(r, "disk", text, little ? "missing: less than 100 MiB are free" : "ok");
		r->missing |= little;
	}
	free(at);
}

/* ---- libraries ---- */

struct dnnl_version {
	int major, minor, patch;
	const char *hash;
	unsigned cpu_runtime, gpu_runtime;
};

static void tell_libraries(struct report *r)
{
	static const char *(*curl_version)(void), *(*archive_version)(void), *(*mhd_version)(void);
	static const struct dnnl_version *(*dnnl_version)(void);
	static const struct dynlib_symbol curl[] = {{"curl_version", (void **)&curl_version}, {NULL, NULL}};
	static const struct dynlib_symbol archive[] = {{"archive_version_string", (void **)&archive_version},
						       {NULL, NULL}};
	static const struct dynlib_symbol mhd[] = {{"MHD_get_version", (void **)&mhd_version}, {NULL, NULL}};
	static const struct dynlib_symbol dnnl[] = {{"dnnl_version", (void **)&dnnl_version}, {NULL, NULL}};
	struct error err = ERROR_INIT;
	char text[64];

	tell(r, "sqlite", sqlite3_libversion(), "ok");
	bool ok = dynlib_load("libcurl.so.4", "libcurl4", curl, &err) == 0;
	tell(r, "libcurl", ok ? curl_version() : NULL, ok ? "ok" : "missing: apt-get install libcurl4");
	r->missing |= !ok;
	ok = dynlib_load("libarchive.so.13", "libarchive13", archive, &err) == 0;
	tell(r, "libarchive", ok ? archive_version() : NULL,
	     ok ? "ok" : "missing: apt-get install libarchive13");
	r->missing |= !ok;
	ok = dynlib_load("libmicrohttpd.so.12", "libmicrohttpd12", mhd, &err) == 0;
	tell(r, "libmicrohttpd", ok ? mhd_version() : NULL,
	     ok ? "ok" : "missing: apt-get install libmicrohttpd12");
	r->missing |= !ok;
	ok = dynlib_load("libdnnl.so.2", "libdnnl2", dnnl, &err) == 0 ||
	     dynlib_load("libdnnl.so.3", "libdnnl3", dnnl, &err) == 0;
	if (ok)
		snprintf(text, sizeof text, "%d.%d.%d", dnnl_version()->major, dnnl_version()->minor,
			 dnnl_version()->patch);
	tell(r, "onednn", ok ? text : NULL,
	     ok ? "ok" : "slow: products take longer; apt-get install libdnnl2");
}

/* ---- credentials: whether they are there, never what they are ---- */

static void tell_variable(struct report *r, const char *name)
{
	const char *value = getenv(name);

	tell(r, name, value && *value ? "set" : "not set", "ok");
}

static void tell_credentials(struct report *r)
{
	const char *file = getenv("GOOGLE_APPLICATION_CREDENTIALS");

	tell_variable(r, "HF_TOKEN");
	if (file && *file)
		tell(r, "GOOGLE_APPLICATION_CREDENTIALS", "set",
		     path_exists(file) ? "ok" : "there is no such file");
	else
		tell_variable(r, "GOOGLE_APPLICATION_CREDENTIALS");
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct report r = {.table = {.columns = 3}};
	const struct option options[] = {{0}};
	int code = options_parse(cli, &cmd_doctor, options, &argc, argv, 0, 0);

	if (code >= 0)
		return code;
	r.json = json_object();
	tell(&r, "anneal", ANNEAL_VERSION, "ok");
	tell_processor(&r);
	tell_memory(&r);
	tell_gpus(&r);
	tell_state(cli, &r);
	tell_libraries(&r);
	tell_credentials(&r);
	if (cli->json) {
		cli_print_json(r.json);
		table_drop(&r.table);
	} else {
		table_print(&r.table, stdout, "", false, cli->color);
		json_decref(r.json);
	}
	return r.missing ? ERR_INFRA : 0;
}

const struct command cmd_doctor = {
	.name = "doctor",
	.args = "",
	.summary = "what this machine has: processor, disk, libraries, credentials",
	.more = "Exit code 4 when something is missing without which pipelines cannot run.",
	.run = run,
};
