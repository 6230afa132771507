/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A record of TCP, and whose a socket is: its namespace and both ends. Whoever includes this
 * has defined before, in the way of its engine: count, reserve_event, submit_event,
 * get_settings.
 */
#ifndef CILIARY_TCP_ENDS_H
#define CILIARY_TCP_ENDS_H

#include "kernel.h"
#include "address.h"
#include "namespaces.h"
#include "tcp.h"

#ifndef CILIARY_BCC
#define AF_INET6 10
#endif

static __always_inline __u32 netns_of(const struct sock_common *common)
{
	return BPF_CORE_READ(common, skc_net.net, ns.inum);
}

static __always_inline int is_mapped(const __u8 *address)
{
	const __u32 *words = (const __u32 *)address;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

static __always_inline void read_ends(struct tcp_record *record, const struct sock_common *common)
{
	record->local_port = BPF_CORE_READ(common, skc_num);
	record->remote_port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
	if (BPF_CORE_READ(common, skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&record->local_ip, common, skc_v6_rcv_saddr.in6_u.u6_addr8);
		BPF_CORE_READ_INTO(&record->remote_ip, common, skc_v6_daddr.in6_u.u6_addr8);
		record->ip_version = is_mapped(record->remote_ip) ? 4 : 6;
	} else {
		map_ipv4(record->local_ip, BPF_CORE_READ(common, skc_rcv_saddr));
		map_ipv4(record->remote_ip, BPF_CORE_READ(common, skc_daddr));
		record->ip_version = 4;
	}
}

/* Returns 0 for what is somebody else's, and when the ring is full. */
static __always_inline struct tcp_record *begin(__u8 kind, __u32 netns)
{
	struct tcp_record *record;

	if (is_foreign(netns, get_settings().only_listed)) {
		count(TCP_FOREIGN);
		return 0;
	}
	count(TCP_SEEN);
	record = reserve_event();
	if (!record) {
		count(TCP_RING_FULL);
		return 0;
	}
	__builtin_memset(record, 0, sizeof(*record));
	record->time_ns = bpf_ktime_get_boot_ns();
	record->kind = kind;
	record->netns = netns;
	return record;
}

#endif
