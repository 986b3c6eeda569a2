#include "base/dynlib.h"

#include <dlfcn.h>
#include <stddef.h>

int dynlib_load(const char *soname, const char *package, const struct dynlib_symbol *symbols,
		struct error *err)
{
	if (*symbols->pointer)
		return 0;
	void *lib = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
	if (!lib) {
		error_set(err, ERR_INFRA, "%s could not be loaded: %s", soname, dlerror());
		return error_hint(err, "install it: apt-get install %s", package);
	}
	/* The first pointer says that all are there, so it is filled last. */
	for (const struct dynlib_symbol *s = symbols + 1; s->name; s++) {
		*s->pointer = dlsym(lib, s->name);
		if (!*s->pointer)
			return error_set(err, ERR_INFRA, "%s has no symbol %s: too old a version", soname,
					 s->name);
	}
	*symbols->pointer = dlsym(lib, symbols->name);
	if (!*symbols->pointer)
		return error_set(err, ERR_INFRA, "%s has no symbol %s: too old a version", soname,
				 symbols->name);
	return 0;
}
