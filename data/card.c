#include "data/card.h"

#include <stdbool.h>
#include <string.h>

#include "base/str.h"

/* One config of the list. Its files are kept in the order of the card. */
struct config {
	const char *name;
	bool is_default;
	struct card_files *files;
	size_t n;
	struct config *next;
};

/* What a list item "- value" belongs to. */
enum place { PLACE_CONFIG, PLACE_FILES, PLACE_PATHS };

struct reading {
	struct arena *arena;
	struct config *configs, *current;
	enum place place;
	const char *split; /* of the data_files entry that is being read */
	int line;
	struct error *err;
};

static int refuse(struct reading *r, const char *why)
{
	error_set(r->err, ERR_USAGE, "README.md:%d: `configs` of the dataset's card: %s", r->line, why);
	return error_hint(r->err, "name the files instead: source = \"…/path/to/file.jsonl\"");
}

/* The scalar at s without quotes; NULL when it is not a plain one. */
static const char *scalar(struct reading *r, const char *s)
{
	size_t n = strlen(s);

	if (n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n - 1] == s[0] && !memchr(s + 1, s[0], n - 2) &&
	    !strchr(s, '\\'))
		return arena_strndup(r->arena, s + 1, n - 2);
	/* What begins a flow collection, a block text, an anchor, a tag or an alias in YAML; '*' begins a glob here. */
	if (n == 0 || strchr("[{|>&!%@`\"'", s[0]) || (s[0] == '*' && n > 1 && strchr("*/.", s[1]) == NULL) ||
	    strstr(s, " #") || strstr(s, ": "))
		return NULL;
	return arena_strdup(r->arena, s);
}

static int add_file(struct reading *r, const char *value)
{
	struct config *c = r->current;
	const char *pattern = scalar(r, value);

	if (!pattern || strstr(pattern, "://") || pattern[0] == '/')
		return refuse(r, "this path is not understood");
	if (c->n % 16 == 0) {
		struct card_files *more = arena_alloc(r->arena, (c->n + 16) * sizeof *more);
		if (c->n)
			memcpy(more, c->files, c->n * sizeof *more);
		c->files = more;
	}
	c->files[c->n++] = (struct card_files){r->split ? r->split : "train", pattern};
	return 0;
}

static int key_value(struct reading *r, const char *key, const char *value, bool dash)
{
	if (strcmp(key, "config_name") == 0 || (dash && r->place == PLACE_CONFIG)) {
		if (dash) {
			struct config *c = arena_calloc(r->arena, 1, sizeof *c);
			c->next = r->current;
			r->configs = r->current = c;
			r->place = PLACE_CONFIG;
			r->split = NULL;
		}
	}
	if (!r->current)
		return refuse(r, "a list was expected here");
	if (strcmp(key, "config_name") == 0) {
		r->current->name = scalar(r, value);
		return r->current->name ? 0 : refuse(r, "this name is not understood");
	}
	if (strcmp(key, "default") == 0) {
		r->current->is_default = strcmp(value, "true") == 0;
		return 0;
	}
	if (strcmp(key, "data_files") == 0) {
		r->place = PLACE_FILES;
		r->split = NULL;
		return *value ? add_file(r, value) : 0;
	}
	if (strcmp(key, "split") == 0 && r->place != PLACE_CONFIG) {
		if (!dash)
			return refuse(r, "`split` must stand before `path`");
		r->place = PLACE_FILES;
		r->split = scalar(r, value);
		return r->split ? 0 : refuse(r, "this split's name is not understood");
	}
	if (strcmp(key, "path") == 0 && r->place != PLACE_CONFIG && !dash && r->split) {
		r->place = *value ? PLACE_FILES : PLACE_PATHS;
		return *value ? add_file(r, value) : 0;
	}
	return refuse(r, "this line is not understood");
}

/* One line of the block, without its indentation and trailing space. */
static int read_line(struct reading *r, char *line)
{
	bool dash = line[0] == '-' && line[1] == ' ';

	if (dash)
		line += 2 + strspn(line + 2, " ");
	char *colon = strchr(line, ':');
	if (!colon || (colon[1] && colon[1] != ' ')) {
		if (!dash || !r->current || r->place == PLACE_CONFIG)
			return refuse(r, "this line is not understood");
		return add_file(r, line);
	}
	*colon = '\0';
	return key_value(r, line, colon + 1 + strspn(colon + 1, " "), dash);
}

static int choose(const struct reading *r, const char *name, struct card *out)
{
	const struct config *found = NULL;
	struct strbuf names = STRBUF_INIT;

	for (const struct config *c = r->configs; c; c = c->next) {
		const char *own = c->name ? c->name : "default";
		strbuf_addf(&names, "%s%s", names.len ? ", " : "", own);
		if (name ? strcmp(own, name) == 0 : c->is_default || strcmp(own, "default") == 0)
			found = c;
	}
	if (!found && !name && r->configs && !r->configs->next)
		found = r->configs;
	if (!found && name)
		error_set(r->err, ERR_USAGE, "the dataset has no config \"%s\"; there are %s", name,
			  names.data);
	else if (!found)
		error_set(r->err, ERR_USAGE, "the dataset has several configs, one must be named: %s",
			  names.data);
	else if (!found->n)
		error_set(r->err, ERR_USAGE, "the dataset's config \"%s\" lists no data files",
			  found->name ? found->name : "default");
	strbuf_free(&names);
	if (!found || !found->n)
		return -1;
	*out = (struct card){found->files, found->n};
	return 1;
}

int card_read(const char *readme, const char *config, struct arena *arena, struct card *out,
	      struct error *err)
{
	struct reading r = {.arena = arena, .err = err};
	char *text = arena_strdup(arena, readme);
	bool inside = false, seen = false;

	if (!str_starts(text, "---") || (text[3] != '\n' && text[3] != '\r'))
		return 0;
	for (char *line = text, *next; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		size_t n = strlen(line);
		while (n && strchr(" \r\t", line[n - 1]))
			line[--n] = '\0';
		if (r.line++ == 0)
			continue;
		if (strcmp(line, "---") == 0)
			break;
		size_t indent = strspn(line, " ");
		if (line[indent] == '\0' || line[indent] == '#')
			continue;
		/* A list may stand at the indentation of its key. */
		if (indent == 0 && line[0] != '-') {
			inside = str_starts(line, "configs:");
			seen = seen || inside;
			if (inside && line[8])
				return refuse(&r, "a list on one line is not understood");
		} else if (inside && read_line(&r, line + indent) < 0) {
			return -1;
		}
	}
	if (!seen)
		return 0;
	return r.configs ? choose(&r, config, out) : refuse(&r, "the list is empty");
}
