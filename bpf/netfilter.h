/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the netfilter probe tells user space; parsers/probe_drops.py mirrors it. */
#ifndef CILIARY_NETFILTER_H
#define CILIARY_NETFILTER_H

#include <linux/types.h>

#define NAME_BYTES 32

/* The base chain that dropped a packet. The drop itself is told by the drop probe. */
struct verdict_record {
	__u64 time_ns; /* boot clock */
	__u64 packet; /* address of the skb, which is freed by now */
	char table[NAME_BYTES];
	char chain[NAME_BYTES];
};
_Static_assert(sizeof(struct verdict_record) == 80, "verdict_record");

#endif
