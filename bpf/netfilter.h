/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the netfilter probe tells user space; parsers/probe_drops.py mirrors it. */
#ifndef CILIARY_NETFILTER_H
#define CILIARY_NETFILTER_H

#include <linux/types.h>

#define NAME_BYTES 32

enum verdict_function {
	VERDICT_OF_CHAIN, /* which table and chain name */
	VERDICT_OF_TABLE, /* of iptables-legacy, whose chain is the hook's */
	VERDICT_OF_NAT,
	VERDICT_OF_LOOKUP, /* nf_conntrack_in: a packet that cannot be tracked */
	VERDICT_OF_CONFIRM, /* __nf_conntrack_confirm: a connection that cannot be added */
};

/* Who dropped a packet. The drop itself is told by the drop probe. Where one of these
 * functions called the other, there is a record of each, and both have the same time.
 */
struct verdict_record {
	__u64 time_ns; /* boot clock */
	__u64 packet; /* address of the skb, which is freed by now */
	char table[NAME_BYTES];
	char chain[NAME_BYTES];
	__u8 function; /* enum verdict_function */
	__u8 reserved[7];
};
_Static_assert(sizeof(struct verdict_record) == 88, "verdict_record");

#endif
