/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the TCP probe tells user space; parsers/probe_tcp.py mirrors it. */
#ifndef CILIARY_TCP_H
#define CILIARY_TCP_H

#ifdef CILIARY_BCC
#include <uapi/linux/types.h>
#else
#include <linux/types.h>
#endif

enum tcp_kind {
	TCP_RETRANSMIT = 1,
	TCP_RESET_SENT = 2,
	TCP_RESET_RECEIVED = 3,
	TCP_STATE_CHANGE = 4,
	TCP_CONNECT_FAILED = 5, /* by the sockets probe, as is the next */
	TCP_ACCEPT_FAILED = 6,
};

enum tcp_role { TCP_ROLE_UNKNOWN, TCP_ACTIVE, TCP_PASSIVE };

/* Local and remote end are the socket's. Addresses: network order, IPv4 mapped into IPv6;
 * ports: host order; states: include/net/tcp_states.h.
 */
struct tcp_record {
	__u64 time_ns; /* boot clock */
	__u64 socket; /* its address joins what happens to one connection */
	__u64 duration_ns; /* since the connection was established, where that was seen */
	__u32 netns; /* inode of the network namespace */
	__u32 rtt_us; /* smoothed round trip, 0 before the first */
	__u32 segments; /* sent again */
	__u32 retransmitted; /* segments of the connection so far */
	__u32 reset_reason; /* number of enum sk_rst_reason in this kernel */
	__u16 local_port;
	__u16 remote_port;
	__u8 local_ip[16];
	__u8 remote_ip[16];
	__u16 tcp_flags;
	__u16 error; /* errno of what failed */
	__u8 kind; /* enum tcp_kind */
	__u8 old_state;
	__u8 state;
	__u8 role; /* enum tcp_role: who opened it */
	__u8 ip_version;
	__u8 reserved[7];
};
_Static_assert(sizeof(struct tcp_record) == 96, "tcp_record");

/* An established one, by its socket; programs' own. */
struct connection {
	__u64 established_ns;
	__u8 role; /* enum tcp_role */
	__u8 reserved[7];
};

/* What user space sets before the programs are loaded. */
struct tcp_settings {
	__u32 all_states; /* else opens and closes only */
	__u32 only_listed; /* only sockets of the listed namespaces */
};

enum tcp_counter { TCP_SEEN, TCP_RING_FULL, TCP_FOREIGN, TCP_COUNTERS };

#endif
