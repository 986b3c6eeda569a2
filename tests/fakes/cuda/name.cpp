/* Names of functions, for messages: looked up in the symbol table of the program's file, since kernels are static. */
#include "internal.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void stop(const char *format, ...)
{
	va_list list;

	fflush(stdout);
	va_start(list, format);
	fputs("cuda fake: ", stderr);
	vfprintf(stderr, format, list);
	fputc('\n', stderr);
	va_end(list);
	abort();
}

/* The symbol at offset from where the file is loaded; into out. */
static bool symbol_find(const char *path, uintptr_t offset, char *out, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	const char *map;
	const ElfW(Ehdr) * header;
	const ElfW(Shdr) * sections;
	bool found = false;

	if (fd < 0)
		return false;
	if (fstat(fd, &st) || st.st_size < (off_t)sizeof *header ||
	    (map = (const char *)mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) ==
		    MAP_FAILED) {
		close(fd);
		return false;
	}
	close(fd);
	header = (const ElfW(Ehdr) *)map;
	sections = (const ElfW(Shdr) *)(map + header->e_shoff);
	for (int i = 0; i < header->e_shnum && !found; i++) {
		const ElfW(Shdr) *s = &sections[i];
		const ElfW(Sym) *symbols = (const ElfW(Sym) *)(map + s->sh_offset);

		if (s->sh_type != SHT_SYMTAB)
			continue;
		for (size_t j = 0; j < s->sh_size / sizeof *symbols && !found; j++)
			if ((symbols[j].st_info & 15) == STT_FUNC && symbols[j].st_value == offset) {
				snprintf(out, size, "%s",
					 map + sections[s->sh_link].sh_offset + symbols[j].st_name);
				found = true;
			}
	}
	munmap((void *)map, (size_t)st.st_size);
	return found;
}

const char *function_name(const void *p)
{
	static __thread char name[512];
	char symbol[512];
	Dl_info info;
	const char *path;
	char *plain;
	int status;

	snprintf(name, sizeof name, "%p", p);
	if (!dladdr(p, &info))
		return name;
	path = access(info.dli_fname, R_OK) == 0 ? info.dli_fname : "/proc/self/exe";
	/* A program that is not relocatable has its addresses in the file. */
	if (!symbol_find(path, (uintptr_t)p - (uintptr_t)info.dli_fbase, symbol, sizeof symbol) &&
	    !symbol_find(path, (uintptr_t)p, symbol, sizeof symbol))
		return name;
	plain = abi::__cxa_demangle(symbol, NULL, NULL, &status);
	snprintf(name, sizeof name, "%s", plain ? plain : symbol);
	free(plain);
	return name;
}
