// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What happens to TCP connections: retransmits, resets, opens, closes, round trips.
 *
 * Tracepoints hand over the socket, so nothing is parsed but what a reset answers.
 */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "namespaces.h"
#include "record.h"
#include "tcp_ends.h"

#define PROTOCOL_TCP 6
#define ESTABLISHED 1 /* include/net/tcp_states.h */
#define SYN_SENT 2
#define SYN_RECEIVED 3
#define CLOSED 7
#define CLOSE_WAIT 8
#define LISTENING 10
#define SYN_ACK 0x12
#define RST 0x04

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} tcp_events SEC(".maps");
TELL_LAYOUT(tcp_record)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TCP_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} tcp_counters SEC(".maps");

struct connection {
	__u64 established_ns;
	__u8 role; /* enum tcp_role */
	__u8 reserved[7];
};

/* Established connections by socket. We insert and delete; user space never looks. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct connection);
} tcp_connections SEC(".maps");

const volatile struct {
	__u32 all_states; /* else opens and closes only */
	__u32 only_listed; /* only sockets of the listed namespaces */
} config SEC(".rodata.config");

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&tcp_counters, &what);

	if (counter)
		++*counter;
}

static __always_inline struct tcp_record *begin(__u8 kind, __u32 netns)
{
	struct tcp_record *record;

	if (is_foreign(netns, config.only_listed)) {
		count(TCP_FOREIGN);
		return 0;
	}
	count(TCP_SEEN);
	record = bpf_ringbuf_reserve(&tcp_events, sizeof(*record), 0);
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

static __always_inline void read_socket(struct tcp_record *record, const struct sock *sk)
{
	const struct tcp_sock *tcp = (const void *)sk;
	__u64 key = (__u64)sk;
	struct connection *connection = bpf_map_lookup_elem(&tcp_connections, &key);

	record->socket = key;
	read_ends(record, &sk->__sk_common);
	if (!record->local_port) /* a closed socket has given its number back */
		record->local_port =
			bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
	record->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	record->rtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3;
	record->retransmitted = BPF_CORE_READ(tcp, total_retrans);
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
		put_ipv4(record->remote_ip, four[0]);
		put_ipv4(record->local_ip, four[1]);
	} else {
		bpf_probe_read_kernel(record->remote_ip, 16, ip + 8);
		bpf_probe_read_kernel(record->local_ip, 16, ip + 24);
	}
	bpf_probe_read_kernel(ports, sizeof(ports), tcp);
	record->remote_port = bpf_ntohs(ports[0]);
	record->local_port = bpf_ntohs(ports[1]);
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit, const struct sock *sk, const struct sk_buff *skb)
{
	struct tcp_record *record = begin(TCP_RETRANSMIT, netns_of(&sk->__sk_common));
	struct tcp_skb_cb *control = (void *)skb->cb;

	if (!record)
		return 0;
	read_socket(record, sk);
	record->old_state = record->state;
	record->segments = BPF_CORE_READ(control, tcp_gso_segs);
	record->tcp_flags = BPF_CORE_READ_BITFIELD_PROBED(control, tcp_flags) & 0xff;
	if (bpf_core_field_exists(struct trace_event_raw_tcp_retransmit_skb, err))
		record->error = -(int)ctx[2];
	bpf_ringbuf_submit(record, 0);
	return 0;
}

/* Answers to a SYN are sent again for a request, which is no socket yet. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_answer, const struct sock *sk, const struct request_sock *request)
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
	bpf_ringbuf_submit(record, 0);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reset_sent, const struct sock *sk, const struct sk_buff *skb)
{
	struct net_device *device = skb ? BPF_CORE_READ(skb, dev) : 0;
	struct tcp_record *record;
	__u32 netns = 0;

	if (sk)
		netns = netns_of(__builtin_preserve_access_index(&sk->__sk_common));
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
	if (bpf_core_type_exists(enum sk_rst_reason))
		record->reset_reason = ctx[2];
	bpf_ringbuf_submit(record, 0);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_reset_received, const struct sock *sk)
{
	struct tcp_record *record = begin(TCP_RESET_RECEIVED, netns_of(&sk->__sk_common));

	if (!record)
		return 0;
	read_socket(record, sk);
	record->old_state = record->state;
	record->tcp_flags = RST;
	bpf_ringbuf_submit(record, 0);
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

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_change, const struct sock *sk, int old_state, int state)
{
	struct connection opened = {};
	struct tcp_record *record;
	__u64 key = (__u64)sk;

	if (BPF_CORE_READ(sk, sk_protocol) != PROTOCOL_TCP) /* SCTP and MPTCP come along */
		return 0;
	if (state == ESTABLISHED) {
		opened.established_ns = bpf_ktime_get_boot_ns();
		opened.role = old_state == SYN_SENT ? TCP_ACTIVE : TCP_PASSIVE;
		bpf_map_update_elem(&tcp_connections, &key, &opened, BPF_ANY);
	}
	if (!config.all_states && state != ESTABLISHED &&
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
	bpf_ringbuf_submit(record, 0);
out:
	if (is_over(old_state, state))
		bpf_map_delete_elem(&tcp_connections, &key);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
