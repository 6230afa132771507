/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the TCP programs do with what tracepoints hand over. Whoever includes this has defined
 * before, in the way of its engine: what tcp_ends.h wants, and find_connection, put_connection,
 * forget_connection.
 */
#ifndef CILIARY_TCP_PROGRAMS_H
#define CILIARY_TCP_PROGRAMS_H

#include "tcp_ends.h"

#define PROTOCOL_TCP 6
#define ESTABLISHED 1 /* include/net/tcp_states.h */
#define SYN_SENT 2
#define SYN_RECEIVED 3
#define TIME_WAIT 6
#define CLOSED 7
#define CLOSE_WAIT 8
#define LISTENING 10
#define NEW_SYN_RECEIVED 12
#define SYN_ACK 0x12
#define RST 0x04
#define STILL_QUEUED 16 /* EBUSY */
#define OUTSIDE_WINDOW 11 /* EAGAIN */
#define NO_MEMORY 12
#define ACKNOWLEDGED 22 /* EINVAL */
#define NO_ROUTE 113 /* EHOSTUNREACH */

static __always_inline void read_socket(struct tcp_record *record, const struct sock *sk)
{
	const struct tcp_sock *tcp = (const void *)sk;
	__u64 key = (__u64)sk;
	struct connection *connection = find_connection(&key);

	record->socket = key;
	read_ends(record, &sk->__sk_common);
	if (!record->local_port) /* a closed socket has given its number back */
		record->local_port =
			bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
	record->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	/* What is left of a closed socket, and what is none yet, end before these fields. */
	if (record->state != TIME_WAIT && record->state != NEW_SYN_RECEIVED) {
		record->rtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3;
		record->retransmitted = BPF_CORE_READ(tcp, total_retrans);
	}
	if (connection) {
		record->role = connection->role;
		record->duration_ns = record->time_ns - connection->established_ns;
	}
}

/* The ends of the packet that a reset answers: it came from the remote one. */
static __always_inline void read_answered(struct tcp_record *record, const struct sk_buff *skb)
{
	const unsigned char *head = BPF_CORE_READ(skb, head);
	const unsigned char *ip = head + BPF_CORE_READ(skb, network_header);
	const unsigned char *tcp = head + BPF_CORE_READ(skb, transport_header);
	__be16 ports[2] = {};
	__be32 four[2] = {};
	__u8 version = 0;

	bpf_probe_read_kernel(&version, 1, ip);
	record->ip_version = version >> 4;
	if (record->ip_version == 4) {
		bpf_probe_read_kernel(four, sizeof(four), ip + 12);
		map_ipv4(record->remote_ip, four[0]);
		map_ipv4(record->local_ip, four[1]);
	} else {
		bpf_probe_read_kernel(record->remote_ip, 16, ip + 8);
		bpf_probe_read_kernel(record->local_ip, 16, ip + 24);
	}
	bpf_probe_read_kernel(ports, sizeof(ports), tcp);
	record->remote_port = bpf_ntohs(ports[0]);
	record->local_port = bpf_ntohs(ports[1]);
}

/* Errors with which the kernel gives a retransmit up before it counts it at the socket. */
static __always_inline int is_uncounted(int error)
{
	return error == -OUTSIDE_WINDOW || error == -NO_MEMORY || error == -ACKNOWLEDGED ||
	       error == -NO_ROUTE;
}

static __always_inline int on_retransmit(const struct sock *sk, const struct sk_buff *skb,
					 int error)
{
	const struct tcp_skb_cb *control = (const void *)&skb->cb;
	struct tcp_record *record;

	if (error == -STILL_QUEUED) /* the segment itself has not left yet: nothing is sent again */
		return 0;
	record = begin(TCP_RETRANSMIT, netns_of(&sk->__sk_common));
	if (!record)
		return 0;
	read_socket(record, sk);
	record->old_state = record->state;
	if (!is_uncounted(error))
		record->segments = BPF_CORE_READ(control, tcp_gso_segs);
	record->tcp_flags = BPF_CORE_READ_BITFIELD_PROBED(control, tcp_flags) & 0xff;
	record->error = -error;
	submit_event(record);
	return 0;
}

/* Answers to a SYN are sent again for a request, which is no socket yet. */
static __always_inline int on_retransmit_answer(const struct sock *sk,
						const struct request_sock *request)
{
	struct tcp_record *record = begin(TCP_RETRANSMIT, netns_of(&sk->__sk_common));

	if (!record)
		return 0;
	record->socket = (__u64)request;
	read_ends(record, &request->__req_common);
	record->old_state = record->state = SYN_RECEIVED;
	record->segments = 1;
	record->tcp_flags = SYN_ACK;
	record->role = TCP_PASSIVE;
	submit_event(record);
	return 0;
}

/* Either may be missing. */
static __always_inline int on_reset_sent(const struct sock *sk, const struct sk_buff *skb,
					 __u32 reason)
{
	struct net_device *device = skb ? BPF_CORE_READ(skb, dev) : 0;
	struct tcp_record *record;
	__u32 netns = 0;

	if (sk)
		netns = netns_of(&sk->__sk_common);
	else if (device)
		netns = BPF_CORE_READ(device, nd_net.net, ns.inum);
	record = begin(TCP_RESET_SENT, netns);
	if (!record)
		return 0;
	if (sk && BPF_CORE_READ(sk, __sk_common.skc_state) != LISTENING &&
	    BPF_CORE_READ(sk, __sk_common.skc_dport)) {
		read_socket(record, sk);
		record->old_state = record->state;
	} else if (skb) {
		read_answered(record, skb);
	}
	record->tcp_flags = RST;
	record->reset_reason = reason;
	submit_event(record);
	return 0;
}

static __always_inline int on_reset_received(const struct sock *sk)
{
	struct tcp_record *record = begin(TCP_RESET_RECEIVED, netns_of(&sk->__sk_common));

	if (!record)
		return 0;
	read_socket(record, sk);
	record->old_state = record->state;
	record->tcp_flags = RST;
	submit_event(record);
	return 0;
}

/* An aborted connection is closed before its reset is sent, which wants to be told whose it
 * was. What is left over goes when the memory is another socket's.
 */
static __always_inline int is_over(int old_state, int state)
{
	if (state == CLOSED)
		return old_state != ESTABLISHED && old_state != CLOSE_WAIT;
	return state == SYN_SENT || state == SYN_RECEIVED;
}

static __always_inline int on_state_change(const struct sock *sk, int old_state, int state)
{
	struct connection opened = {};
	struct tcp_record *record;
	__u64 key = (__u64)sk;

	if (BPF_CORE_READ(sk, sk_protocol) != PROTOCOL_TCP) /* SCTP and MPTCP come along */
		return 0;
	if (state == ESTABLISHED) {
		opened.established_ns = bpf_ktime_get_boot_ns();
		opened.role = old_state == SYN_SENT ? TCP_ACTIVE : TCP_PASSIVE;
		put_connection(&key, &opened);
	}
	if (!get_settings().all_states && state != ESTABLISHED &&
	    (state != CLOSED || old_state == LISTENING || old_state == CLOSED))
		goto out;
	record = begin(TCP_STATE_CHANGE, netns_of(&sk->__sk_common));
	if (!record)
		goto out;
	read_socket(record, sk);
	record->old_state = old_state;
	record->state = state;
	if (old_state == SYN_SENT)
		record->role = TCP_ACTIVE;
	submit_event(record);
out:
	if (is_over(old_state, state))
		forget_connection(&key);
	return 0;
}

#endif
