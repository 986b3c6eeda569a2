/* Classes of characters, as Rust's char methods and the `tokenizers` library define them. */
#ifndef TOKENIZER_CHARS_H
#define TOKENIZER_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the UTF-8 sequence that starts with c. */
static inline size_t utf8_length(char c)
{
	uint8_t u = (uint8_t)c;
	return u < 0x80 ? 1 : u < 0xe0 ? 2 : u < 0xf0 ? 3 : 4;
}

bool char_is_space(uint32_t cp);       /* White_Space */
bool char_is_numeric(uint32_t cp);     /* Nd, Nl, No */
bool char_is_punctuation(uint32_t cp); /* ASCII punctuation, or a category P? */
bool char_is_word(uint32_t cp);        /* \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control */

/* The byte-level alphabet: byte b is written as this character, so that every byte is printable (GPT-2's
 * bytes_to_unicode: printable Latin-1 stands for itself, the others follow from U+0100). */
uint32_t byte_level_char(uint8_t b);
/* The byte that cp stands for, -1 when it is not of that alphabet. */
int byte_level_byte(uint32_t cp);

#endif
