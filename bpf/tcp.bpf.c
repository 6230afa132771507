// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What happens to TCP connections: retransmits, resets, opens, closes, round trips.
 *
 * Tracepoints hand over the socket, so nothing is parsed but what a reset answers.
 */
#include "kernel.h"
#include <bpf/bpf_tracing.h>
#include "record.h"
#include "tcp.h"

char LICENSE[] SEC("license") = "GPL";

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

/* Established connections by socket. We insert and delete; user space never looks. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct connection);
} tcp_connections SEC(".maps");

const volatile struct tcp_settings config SEC(".rodata.config");

static __always_inline struct tcp_settings get_settings(void)
{
	return config;
}

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&tcp_counters, &what);

	if (counter)
		++*counter;
}

static __always_inline struct tcp_record *reserve_event(void)
{
	return bpf_ringbuf_reserve(&tcp_events, sizeof(struct tcp_record), 0);
}

static __always_inline void submit_event(struct tcp_record *record)
{
	bpf_ringbuf_submit(record, 0);
}

static __always_inline struct connection *find_connection(const __u64 *socket)
{
	return bpf_map_lookup_elem(&tcp_connections, socket);
}

static __always_inline void put_connection(const __u64 *socket, const struct connection *opened)
{
	bpf_map_update_elem(&tcp_connections, socket, opened, BPF_ANY);
}

static __always_inline void forget_connection(const __u64 *socket)
{
	bpf_map_delete_elem(&tcp_connections, socket);
}

#include "tcp_programs.h"

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit, const struct sock *sk, const struct sk_buff *skb)
{
	return on_retransmit(sk, skb, HAS_RETRANSMIT_ERROR ? ctx[2] : 0);
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_answer, const struct sock *sk, const struct request_sock *request)
{
	return on_retransmit_answer(sk, request);
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reset_sent, const struct sock *sk, const struct sk_buff *skb)
{
	return on_reset_sent(sk, skb, HAS_RESET_REASON ? ctx[2] : 0);
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_reset_received, const struct sock *sk)
{
	return on_reset_received(sk);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_change, const struct sock *sk, int old_state, int state)
{
	return on_state_change(sk, old_state, state);
}
