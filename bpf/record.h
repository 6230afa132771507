/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Layouts that programs share with parsers/probe_records.py. Both sides state the sizes,
 * and a test compares each field with the type information of the objects.
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d; ports are in host order.
 */
#ifndef CILIARY_RECORD_H
#define CILIARY_RECORD_H

#ifdef CILIARY_BCC
#include <uapi/linux/types.h>
#else
#include <linux/types.h>
#endif

enum point { POINT_INGRESS = 0, POINT_EGRESS = 1 };

/* Bits of flow_key.kind. */
enum kind {
	KIND_FRAGMENT = 1,  /* not the first fragment: it has no ports */
	KIND_MALFORMED = 2, /* a header was cut off or made no sense */
};

/* flow_key.tunnel: what the packet carries, if its outer header is what we count. */
enum tunnel {
	TUNNEL_NONE = 0,
	TUNNEL_VXLAN = 1,
	TUNNEL_GENEVE = 2,
	TUNNEL_GRE = 3,
	TUNNEL_IPIP = 4, /* IPv4 or IPv6 in either */
};

/* One entry for both directions of a flow at an interface: the lower endpoint comes first.
 * What one side sends comes in there, what the other sends goes out; a packet that is seen
 * at both points (a hairpin) has an entry for each. Where there are no
 * ports, aport has the ICMP type and code (type << 8 | code) or, without an IP header,
 * the Ethernet type.
 */
struct flow_key {
	__u8 a[16];
	__u8 b[16];
	__u16 aport;
	__u16 bport;
	__u32 ifindex;
	__u16 vlan;
	__u8 proto;
	__u8 a_leaves; /* 1: what a sends is seen at egress; the point is a_leaves ^ back */
	__u8 family; /* 4, 6, or 0 without an IP header */
	__u8 tunnel;
	__u8 kind;
	__u8 pad;
};

enum opener { OPENER_UNKNOWN = 0, OPENER_A = 1, OPENER_B = 2 };

/* Counters by direction: [0] a to b, [1] b to a. Times are of the monotonic clock. */
struct flow_value {
	__u64 id; /* random, so that an entry is told from a later one of the same key */
	__u64 skbs[2];
	__u64 more_segments[2]; /* of segmented packets, those beyond the first */
	__u64 bytes[2];
	__u64 first_ns;
	__u64 last_ns;
	__u8 tcp_flags[2]; /* all that were seen */
	__u8 opener;       /* who sent the SYN; proved by one or by its answer */
	__u8 first;        /* direction of the first packet */
	__u8 pad[4];
	__u32 received_on[2]; /* at egress: interface by which it came in, 0 if from here */
};

enum cause { CAUSE_FIRST = 1, CAUSE_FLAGS = 2, CAUSE_PACKET = 3 };

/* A packet that is told of at once. It is counted here and nowhere else. */
struct flow_event {
	__u64 time_ns;
	__u64 id; /* of the flow's entry */
	struct flow_key key;
	__u32 bytes;
	__u32 segments;
	__u32 received_on;
	__u8 back; /* direction: 1 is b to a */
	__u8 tcp_flags;
	__u8 cause;
	__u8 opener;
	__u8 first;
	__u8 pad[7];
};

/* What user space sets before the programs are loaded. */
struct traffic_settings {
	__u32 sample; /* an event for one packet of so many; 1 is each, 0 none */
	__u16 vxlan_ports[2];
	__u16 geneve_port;
	__u16 pad;
};

struct interface_key {
	__u32 ifindex;
	__u32 point;
};

/* Every packet of an attached hook, counted per CPU. */
struct interface_value {
	__u64 skbs;
	__u64 more_segments;
	__u64 bytes;
	__u64 inserted;     /* flows */
	__u64 not_inserted; /* packets whose flow found no room */
	__u64 folded;       /* events that found no room and were counted with their flow */
};

/* What user space has read of a flow or an interface, for a process that comes after it:
 * an id and the counters, as they were. Programs do not touch it.
 */
struct told {
	__u64 id;
	__u64 counters[6];
};

_Static_assert(sizeof(struct flow_key) == 48, "flow_key");
_Static_assert(sizeof(struct flow_value) == 88, "flow_value");
_Static_assert(sizeof(struct flow_event) == 88, "flow_event");
_Static_assert(sizeof(struct interface_key) == 8, "interface_key");
_Static_assert(sizeof(struct told) == 56, "told");
_Static_assert(sizeof(struct interface_value) == 48, "interface_value");

/* Never called, so never loaded: puts a layout that is in no map's definition into the
 * object's type information, for the test that compares it.
 */
#define TELL_LAYOUT(type) \
	__attribute__((used, noinline)) static int layout_##type(const struct type *t) \
	{ \
		return 0; \
	}

#endif
