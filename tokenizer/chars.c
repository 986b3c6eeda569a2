#include "tokenizer/chars.h"

#include <utf8proc.h>

bool char_is_space(uint32_t cp)
{
	return (cp >= 0x09 && cp <= 0x0d) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
	       (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f ||
	       cp == 0x205f || cp == 0x3000;
}

bool char_is_numeric(uint32_t cp)
{
	utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
	return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool char_is_punctuation(uint32_t cp)
{
	if (cp < 0x80)
		return (cp >= '!' && cp <= '/') || (cp >= ':' && cp <= '@') || (cp >= '[' && cp <= '`') ||
		       (cp >= '{' && cp <= '~');
	utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
	return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool char_is_word(uint32_t cp)
{
	if (cp < 0x80)
		return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') ||
		       cp == '_';
	utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
	/* Alphabetic without marks is L, Nl and the circled letters, which are So. */
	return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ND) || c == UTF8PROC_CATEGORY_NL ||
	       c == UTF8PROC_CATEGORY_PC || cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9) ||
	       (cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
	       (cp >= 0x1f170 && cp <= 0x1f189);
}

/* Printable Latin-1: 33..126, 161..172, 174..255. */
static bool stands_for_itself(uint32_t b)
{
	return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
}

uint32_t byte_level_char(uint8_t b)
{
	if (stands_for_itself(b))
		return b;
	/* The n-th byte that does not stand for itself is U+0100 + n: 0..32, 127..160, 173. */
	return 0x100u + (b <= 32 ? b : b <= 160 ? 33u + (b - 127u) : 67u);
}

int byte_level_byte(uint32_t cp)
{
	if (stands_for_itself(cp))
		return (int)cp;
	if (cp < 0x100 || cp > 0x143)
		return -1;
	uint32_t n = cp - 0x100;
	return (int)(n <= 32 ? n : n < 67 ? n - 33 + 127 : 173);
}
