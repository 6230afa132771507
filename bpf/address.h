/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses of both families as 16 bytes. Wants the byte order's functions of the engine. */
#ifndef CILIARY_ADDRESS_H
#define CILIARY_ADDRESS_H

static __always_inline void map_ipv4(__u8 out[16], __be32 address)
{
	__u32 *words = (__u32 *)out;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = address;
}

#endif
