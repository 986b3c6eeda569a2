#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void flatten(char *s)
{
	for (; *s; s++)
		if (*s == '\n' || *s == '\r')
			*s = ' ';
}

int error_set(struct error *e, enum error_class class, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return -1;
	e->class = class;
	e->hint[0] = '\0';
	va_start(ap, fmt);
	vsnprintf(e->message, sizeof e->message, fmt, ap);
	va_end(ap);
	flatten(e->message);
	return -1;
}

int error_errno(struct error *e, enum error_class class, const char *fmt, ...)
{
	int saved = errno;
	char text[sizeof e->message];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	error_set(e, class, "%s: %s", text, strerror(saved));
	errno = saved;
	return -1;
}

int error_context(struct error *e, const char *fmt, ...)
{
	char before[sizeof e->message], old[sizeof e->message];
	va_list ap;

	if (!e)
		return -1;
	va_start(ap, fmt);
	vsnprintf(before, sizeof before, fmt, ap);
	va_end(ap);
	flatten(before);
	memcpy(old, e->message, sizeof old);
	size_t n = strlen(before);
	if (n > sizeof before / 2)
		n = sizeof before / 2;
	snprintf(e->message, sizeof e->message, "%.*s: %.*s", (int)n, before, (int)(sizeof old - n - 3), old);
	return -1;
}

int error_hint(struct error *e, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return -1;
	va_start(ap, fmt);
	vsnprintf(e->hint, sizeof e->hint, fmt, ap);
	va_end(ap);
	flatten(e->hint);
	return -1;
}

enum error_class error_class_of_errno(int err)
{
	switch (err) {
	case ENOENT:
	case ENOTDIR:
	case EISDIR:
	case EACCES:
	case EPERM:
	case EINVAL:
	case ENAMETOOLONG:
	case ELOOP: return ERR_USAGE;
	case EINTR: return ERR_INTERRUPTED;
	default: return ERR_INFRA;
	}
}

const char *error_class_name(enum error_class class)
{
	switch (class) {
	case ERR_USAGE: return "usage";
	case ERR_STAGE: return "stage";
	case ERR_INFRA: return "infra";
	case ERR_INTERRUPTED: return "interrupted";
	case ERR_NONE: break;
	}
	return "none";
}
