/* On a terminal: settled lines scroll up, below them one line per running stage. A drawing goes out as one write, so that
 * it does not flicker, and never wraps a line, so that it can be taken away again. */
#include <string.h>
#include <sys/ioctl.h>

#include "cli/progress.h"
#include "cli/text.h"

#define FRAME_SECONDS 0.1

static size_t columns(const struct progress *p)
{
	struct winsize w;

	if (p->o.width)
		return (size_t)p->o.width;
	if (ioctl(fileno(p->o.out), TIOCGWINSZ, &w) == 0 && w.ws_col >= 20)
		return w.ws_col;
	return 80;
}

static size_t name_columns(const struct progress *p)
{
	size_t most = 0;

	for (size_t i = 0; i < p->o.graph->nstages; i++) {
		size_t w = strlen(p->o.graph->stages[i].name);
		most = w > most ? w : most;
	}
	return most < 24 ? most : 24;
}

static void add_name(const struct progress *p, size_t stage, struct strbuf *b)
{
	const char *name = p->o.graph->stages[stage].name;
	size_t width = name_columns(p), n = strlen(name);

	strbuf_addf(b, "%s%*s", name, n < width ? (int)(width - n) : 0, "");
}

/* ---- the live lines ---- */

static void erase(struct progress *p, struct strbuf *b)
{
	if (p->lines)
		strbuf_addf(b, "\033[%zuA\r\033[J", p->lines);
	p->lines = 0;
}

/* A bar of so many columns, filled to eighths of one. */
static void add_bar(const struct progress_stage *s, size_t wide, bool color, struct strbuf *b)
{
	static const char *const parts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
	double share = (double)s->done / (double)s->total;
	size_t eighths = (size_t)((share < 1 ? share : 1) * (double)(wide * 8));

	strbuf_adds(b, paint(PAINT_BLUE, color));
	for (size_t i = 0; i < eighths / 8; i++)
		strbuf_adds(b, "█");
	strbuf_adds(b, parts[eighths % 8]);
	strbuf_adds(b, paint(PAINT_NONE, color));
	for (size_t i = eighths / 8 + (eighths % 8 != 0); i < wide; i++)
		strbuf_adds(b, "·");
}

static void add_running(struct progress *p, size_t stage, struct strbuf *b)
{
	static const char *const spin[] = {"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"};
	const struct progress_stage *s = p->stages + stage;
	double now = p->o.clock(), left = progress_left(p, stage);
	struct strbuf line = STRBUF_INIT;
	char text[24];

	strbuf_addf(&line, "%s%s%s ", paint(PAINT_BLUE, p->o.color), spin[(size_t)(now * 10) % 10],
		    paint(PAINT_NONE, p->o.color));
	add_name(p, stage, &line);
	strbuf_adds(&line, "  ");
	/* What matters most comes first: a narrow terminal cuts off the end. */
	if (s->waiting)
		strbuf_addf(&line, "%s  ", s->message ? s->message : "waiting for another run");
	if (s->total) {
		uint64_t done = s->done < s->total ? s->done : s->total;
		add_bar(s, columns(p) < 90 ? 10 : 20, p->o.color, &line);
		strbuf_addf(&line, " %3d %%  ", (int)(100.0 * (double)done / (double)s->total));
	}
	if (left >= 0) {
		format_duration(left, text);
		strbuf_addf(&line, "%s left  ", text);
	}
	size_t before = line.len;
	progress_amount(p, s, &line);
	if (s->metric[0])
		strbuf_addf(&line, "%s%s", line.len > before ? ", " : "", s->metric);
	if (line.len > before)
		strbuf_adds(&line, "  ");
	format_duration(now - s->began, text);
	strbuf_addf(&line, "%s%s%s", paint(PAINT_DIM, p->o.color), text, paint(PAINT_NONE, p->o.color));
	text_fit(b, line.data, columns(p) - 1);
	strbuf_addc(b, '\n');
	strbuf_free(&line);
	p->lines++;
}

static void draw(struct progress *p, struct strbuf *b)
{
	for (size_t k = 0; k < p->o.graph->nstages; k++) {
		size_t i = p->o.graph->order[k];
		if (p->stages[i].status == STAGE_RUNNING)
			add_running(p, i, b);
	}
	if (p->o.stop && *p->o.stop && p->status == RUN_RUNNING) {
		strbuf_adds(b, *p->o.stop > 1 ? "stopping now\n" : "stopping… press again to kill\n");
		p->lines++;
	}
	p->drawn = p->o.clock();
}

/* ---- settled lines ---- */

static void settle_idle(struct progress *p, struct strbuf *b)
{
	struct strbuf line = STRBUF_INIT;
	const char *mark = p->idle.status == STAGE_CACHED ? "=" : "-";

	strbuf_addf(&line, "%s%s ", paint(PAINT_DIM, p->o.color), mark);
	if (progress_idle_take(p, &line)) {
		strbuf_adds(&line, paint(PAINT_NONE, p->o.color));
		text_fit(b, line.data, columns(p) - 1);
		strbuf_addc(b, '\n');
	}
	strbuf_free(&line);
}

static void settle(struct progress *p, const struct event *e, struct strbuf *b)
{
	size_t stage = e->stage;
	const struct progress_stage *s = p->stages + stage;
	const char *mark = "-", *after = "";
	enum paint color = PAINT_DIM;
	struct strbuf line = STRBUF_INIT;
	char took[24];

	if (progress_idle_add(p, e))
		return;
	settle_idle(p, b);
	if (progress_idle_add(p, e))
		return;
	if (s->status == STAGE_DONE) {
		mark = "✓";
		color = PAINT_GREEN;
		after = s->facts ? s->facts : "";
	} else if (s->status == STAGE_FAILED) {
		mark = "✗";
		color = PAINT_RED;
		after = s->message ? s->message : "failed";
	} else {
		after = s->message ? s->message : stage_status_name(s->status);
	}
	strbuf_addf(&line, "%s%s%s ", paint(color, p->o.color), mark, paint(PAINT_NONE, p->o.color));
	add_name(p, stage, &line);
	strbuf_adds(&line, "  ");
	text_clean(&line, after);
	/* The time stands at the end also where the facts have to be cut. */
	size_t room = columns(p) - 1;
	format_duration(s->seconds, took);
	size_t tail = strlen(took) + (after[0] ? 2 : 0);
	text_fit(b, line.data, room > tail ? room - tail : 0);
	strbuf_addf(b, "%s%s%s%s", after[0] ? "  " : "", paint(PAINT_DIM, p->o.color), took,
		    paint(PAINT_NONE, p->o.color));
	strbuf_addc(b, '\n');
	strbuf_free(&line);
}

static void settle_log(struct progress *p, const struct event *e, struct strbuf *b)
{
	enum paint color = e->level == LOG_ERROR     ? PAINT_RED
			   : e->level == LOG_WARNING ? PAINT_YELLOW
						     : PAINT_DIM;
	struct strbuf line = STRBUF_INIT;

	settle_idle(p, b);
	strbuf_addf(&line, "%s%s:%s ", paint(color, p->o.color), e->name, paint(PAINT_NONE, p->o.color));
	text_clean(&line, e->message ? e->message : "");
	/* Whole, also where it wraps: it is above the live lines, which alone are taken away. */
	strbuf_addf(b, "%s\n", line.data);
	strbuf_free(&line);
}

/* ---- */

static void put(struct progress *p, struct strbuf *b)
{
	if (b->len) {
		fwrite(b->data, 1, b->len, p->o.out);
		fflush(p->o.out);
	}
	strbuf_free(b);
}

void progress_tty(struct progress *p, const struct event *e)
{
	struct strbuf settled = STRBUF_INIT, b = STRBUF_INIT;
	char text[24];

	switch (e->type) {
	case EVENT_STAGE_FINISHED: settle(p, e, &settled); break;
	case EVENT_STAGE_LOG:
		if (p->o.verbose || e->level != LOG_INFO)
			settle_log(p, e, &settled);
		break;
	case EVENT_STAGE_RETRY:
		format_duration(e->seconds, text);
		strbuf_addf(&settled,
			    "%s%s:%s attempt %d failed, next in %s: ", paint(PAINT_YELLOW, p->o.color),
			    e->name, paint(PAINT_NONE, p->o.color), e->attempt, text);
		text_clean(&settled, e->message ? e->message : "");
		strbuf_addc(&settled, '\n');
		break;
	case EVENT_RUN_FINISHED: settle_idle(p, &settled); break;
	case EVENT_STAGE_STARTED:
	case EVENT_STAGE_WAITING: settle_idle(p, &settled); break;
	default: break;
	}
	/* What settles is shown at once, the rest when its time has come. */
	if (!settled.len && p->o.clock() - p->drawn < FRAME_SECONDS)
		return;
	erase(p, &b);
	strbuf_add(&b, settled.data, settled.len);
	if (e->type != EVENT_RUN_FINISHED)
		draw(p, &b);
	strbuf_free(&settled);
	put(p, &b);
}

void progress_tty_end(struct progress *p)
{
	struct strbuf b = STRBUF_INIT;

	erase(p, &b);
	settle_idle(p, &b);
	put(p, &b);
}
