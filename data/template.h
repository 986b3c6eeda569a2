/* Templates: text with `{field}` in it, rendered once per row. `{a.b}` takes member b of the object in field
 * a, unless there is a field named "a.b"; `{{` and `}}` stand for the braces themselves. Nothing else is
 * special: no format specifications, no conversions, no code. */
#ifndef DATA_TEMPLATE_H
#define DATA_TEMPLATE_H

#include <stddef.h>

#include "base/error.h"
#include "base/str.h"
#include "data/rows.h"

struct template;

/* Compiles text; name is what errors call it ("template", "prompt"). NULL and ERR_USAGE for a brace that is
 * not closed, not opened or empty, or a format specification: the message has line and column (1-based, in
 * characters). The caller template_frees the result. */
struct template *template_compile(const char *text, const char *name, struct error *err);
/* The field name at place i (0-based, as written, with repetitions), or NULL behind the last; owned by t. */
const char *template_field(const struct template *t, size_t i);
/* Appends the template with the row's fields in it: strings as they are; integers, floats, booleans and null
 * as Python's str() prints them (3, 1.5, 1e-05, True, None); objects and arrays as JSON on one line.
 * ERR_USAGE for a field that the row has not: names the row's id, the field, the fields there are and the
 * nearest of them; out then holds what was rendered before. */
int template_render(const struct template *t, const struct row *row, struct strbuf *out, struct error *err);
void template_free(struct template *t); /* NULL is fine */

#endif
