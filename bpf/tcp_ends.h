/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose a socket is: its namespace and both ends, for programs that are handed one. */
#ifndef CILIARY_TCP_ENDS_H
#define CILIARY_TCP_ENDS_H

#include "kernel.h"
#include "tcp.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

static __always_inline __u32 netns_of(const struct sock_common *common)
{
	return BPF_CORE_READ(common, skc_net.net, ns.inum);
}

static __always_inline int is_mapped(const __u8 *address)
{
	const __u32 *words = (const __u32 *)address;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

static __always_inline void put_ipv4(__u8 *address, __be32 four)
{
	__u32 *words = (__u32 *)address;

	words[0] = words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = four;
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
		put_ipv4(record->local_ip, BPF_CORE_READ(common, skc_rcv_saddr));
		put_ipv4(record->remote_ip, BPF_CORE_READ(common, skc_daddr));
		record->ip_version = 4;
	}
}

#endif
