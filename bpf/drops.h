/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the drop probe tells user space; parsers/probe_drops.py mirrors it. */
#ifndef CILIARY_DROPS_H
#define CILIARY_DROPS_H

#ifdef CILIARY_BCC
#include <uapi/linux/types.h>
#else
#include <linux/types.h>
#endif

#define SYMBOL_BYTES 40
#define FRAMES 16 /* up to the hook's caller at most 8, and 2 for each fexit program between */

enum drop_direction { DROP_DIRECTION_UNKNOWN, DROP_INGRESS, DROP_EGRESS };

enum drop_hook {
	HOOK_UNKNOWN,
	HOOK_PREROUTING,
	HOOK_INPUT,
	HOOK_FORWARD,
	HOOK_OUTPUT,
	HOOK_POSTROUTING,
};

enum drop_flag {
	DROP_HAS_ETHERNET = 1,
	DROP_IS_FRAGMENT = 2, /* of IP; ports only in the first one */
	DROP_HAS_VLAN = 4,
};

/* One dropped packet. Addresses: network order, IPv4 mapped into IPv6; ports: host order. */
struct drop_record {
	__u64 time_ns; /* boot clock */
	__u64 packet; /* address of the skb: joins what several probes say about one packet */
	__u64 location; /* where the kernel freed it */
	__u32 reason; /* number of enum skb_drop_reason in this kernel, 0 before 5.17 */
	__u32 length; /* bytes */
	__u32 interface;
	__u32 netns; /* inode of the network namespace, 0 when nothing tells it */
	__u16 segments; /* on the wire, at least 1 */
	__u16 ether_type;
	__u16 vlan; /* TCI, with DROP_HAS_VLAN */
	__u16 source_port;
	__u16 destination_port;
	__u16 tcp_flags;
	__u8 ip_version; /* 4, 6, or 0 */
	__u8 protocol; /* of layer 4 */
	__u8 l4_type; /* ICMP type, SCTP chunk */
	__u8 l4_code;
	__u8 source_ip[16];
	__u8 destination_ip[16];
	__u8 source_mac[6];
	__u8 destination_mac[6];
	__u8 direction; /* enum drop_direction */
	__u8 hook; /* enum drop_hook */
	__u8 flags; /* enum drop_flag */
	__u8 reserved;
	char symbol[SYMBOL_BYTES]; /* name of location */
};
_Static_assert(sizeof(struct drop_record) == 144, "drop_record");

enum drop_counter { DROPS_SEEN, DROPS_RING_FULL, DROPS_SUPPRESSED, DROPS_FOREIGN, DROP_COUNTERS };

struct drop_rule {
	__u64 location; /* 0: wherever it happens */
	__u32 reason;
	__u32 reserved;
};
_Static_assert(sizeof(struct drop_rule) == 16, "drop_rule");

/* What user space sets before the programs are loaded. */
struct drop_settings {
	__u32 netfilter_reason; /* value of NETFILTER_DROP in this kernel, 0 for none */
	__u32 only_listed; /* only packets of the listed namespaces */
};

/* What follows is the programs' own. */

struct site {
	char symbol[SYMBOL_BYTES];
	__u8 hook; /* enum drop_hook, of functions that call netfilter */
	__u8 reserved[7];
};

/* A packet made of several skbs is freed skb by skb, right after its first one. */
struct parts {
	__u64 expected; /* address of the next skb of the packet */
	__u64 until_ns;
};

struct scratch {
	struct parts parts;
	struct site site;
	__u64 frames[FRAMES];
};

#endif
