/* libmicrohttpd's functions, loaded at the first use. */
#ifndef SERVE_MHD_H
#define SERVE_MHD_H

#include <microhttpd.h>

#include "base/error.h"

#define MHD_FUNCTIONS(F)                                                                                     \
	F(MHD_start_daemon)                                                                                  \
	F(MHD_stop_daemon)                                                                                   \
	F(MHD_create_response_from_buffer)                                                                   \
	F(MHD_create_response_from_callback)                                                                 \
	F(MHD_add_response_header)                                                                           \
	F(MHD_queue_response)                                                                                \
	F(MHD_destroy_response)                                                                              \
	F(MHD_get_connection_info)                                                                           \
	F(MHD_lookup_connection_value)                                                                       \
	F(MHD_set_connection_option)

/* mhd.MHD_start_daemon(…) */
struct mhd {
#define MHD_MEMBER(name) __typeof__(name) *name;
	MHD_FUNCTIONS(MHD_MEMBER)
#undef MHD_MEMBER
};
extern struct mhd mhd;

int mhd_load(struct error *err);

#endif
