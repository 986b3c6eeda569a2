/* A training run's whole state in one file, so that a run that was stopped goes on bit for bit.
 *
 * The file is a safetensors file. Tensors, F32: "param.NAME", "exp_avg.NAME", "exp_avg_sq.NAME" for every trained
 * tensor NAME; I32: "sampler.mt19937" (625: the generator's words and position before the epoch's order was drawn).
 * Metadata, text: "anneal.checkpoint" (format version), "options" (trainer_options_text), "rows" (number and CRC-64 of the
 * rows), "state" (step, updates, epoch, cursor, tokens, skipped, steps since the last metrics, the two loss sums and
 * the loss scale as hexadecimal floats, updates since that changed), "crc64" (of the metadata before it and all tensors, CRC-64/XZ). The same state gives the same
 * bytes. */
#ifndef MODEL_CHECKPOINT_H
#define MODEL_CHECKPOINT_H

#include "model/trainer.h"

/* Writes the state between two steps to path, atomically. */
int trainer_save(struct trainer *t, const char *path, struct error *err);
/* Puts a fresh trainer, made with the same options, model and rows, where the saved one stood. ERR_USAGE, and t as it
 * was, when the file is damaged or belongs to other options, rows or shapes; the message names the first difference. */
int trainer_restore(struct trainer *t, const char *path, struct error *err);

#endif
