/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Kernel types our probes read, written by hand: only the fields we use.
 *
 * Everything inside the pragma is relocated by libbpf against the running
 * kernel's BTF, so order, offset and size here do not matter; names do.
 * A type or field the running kernel lacks must be guarded with
 * bpf_core_type_exists / bpf_core_field_exists before it is touched.
 * Records shared with user space do NOT belong in here.
 * A name ending in ___suffix is a "flavour": libbpf ignores the suffix.
 */
#ifndef CILIARY_KERNEL_H
#define CILIARY_KERNEL_H

#ifdef CILIARY_BCC
#include "kernel_headers.h"
#else

#include <linux/types.h>
#include <linux/bpf.h> /* UAPI: helpers' enums, __sk_buff, map types */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Only asked for, never read: */
enum skb_drop_reason { SKB_DROP_REASON_DUMMY___k }; /* since 5.17 */
enum sk_rst_reason { SK_RST_REASON_DUMMY___k }; /* since 6.10 */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr___k {
	union {
		__u8 u6_addr8[16];
		__u32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport; /* network order */
	__u16 skc_num;    /* host order; 0 after close */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr___k skc_v6_daddr;
	struct in6_addr___k skc_v6_rcv_saddr;
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

struct inet_sock {
	__be16 inet_sport; /* stays when a socket is closed */
};

struct tcp_sock {
	__u32 srtt_us; /* smoothed RTT, microseconds << 3 */
	__u32 total_retrans; /* segments */
};

struct request_sock {
	struct sock_common __req_common;
};

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

struct sk_buff {
	struct sk_buff *next;
	unsigned int len;
	struct sock *sk;
	struct net_device *dev;
	int skb_iif; /* where it was received, 0 for what we send */
	__be16 vlan_proto;
	__u16 vlan_tci;
	__be16 protocol;
	__u16 mac_header; /* offsets from head; 0xffff when not set */
	__u16 network_header;
	__u16 transport_header;
	unsigned int tail; /* behind the bytes that lie in one piece; on 64 bits an offset, too */
	unsigned int end; /* where struct skb_shared_info begins, likewise */
	unsigned char *head;
	unsigned char *data;
	char cb[48];
};

struct skb_shared_info {
	unsigned short gso_segs;
	struct sk_buff *frag_list;
};

struct sockaddr___k {
	unsigned short sa_family;
};

struct proto_accept_arg { /* since 6.10; before, accept had arguments of their own */
	int err;
};

struct nft_table {
	char *name;
};

struct nft_chain {
	struct nft_table *table;
	char *name;
};

struct nft_pktinfo {
	struct sk_buff *skb;
};

struct xt_table {
	const char name[32];
};

struct tcp_skb_cb {
	__u16 tcp_gso_segs;
	__u16 tcp_flags; /* one byte up to 6.17, two from 6.18 */
};

/* Record of the tracepoint, whose argument it is as well, since 6.10. */
struct trace_event_raw_kfree_skb {
	void *rx_sk;
};

/* Record of the tracepoint; its own since 6.17, when the tracepoint got an argument. */
struct trace_event_raw_tcp_retransmit_skb {
	int err;
};

#pragma clang attribute pop

/* What the running kernel's tracepoints hand over. */
#define HAS_DROP_REASON bpf_core_type_exists(enum skb_drop_reason)
#define HAS_RECEIVER bpf_core_field_exists(struct trace_event_raw_kfree_skb, rx_sk)
#define HAS_RETRANSMIT_ERROR \
	bpf_core_field_exists(struct trace_event_raw_tcp_retransmit_skb, err)
#define HAS_RESET_REASON bpf_core_type_exists(enum sk_rst_reason)

/* Of what a tracepoint hands over, which the verifier knows, a field is read at once. */
#define FIELD(pointer, field) ((pointer)->field)

#endif
#endif
