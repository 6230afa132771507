// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Calls that failed: connect() and accept() of TCP, with errno.
 *
 * What fails before a packet is sent (no route, no port left) leaves no other trace: no
 * state changes, and nothing is dropped.
 */
#include "kernel.h"
#include <bpf/bpf_tracing.h>
#include <linux/in.h>
#include <linux/in6.h>
#include "record.h"
#include "tcp.h"

char LICENSE[] SEC("license") = "GPL";

#define LISTENING 10 /* include/net/tcp_states.h */
#define EAGAIN 11 /* nobody is waiting: what a server that polls gets all the time */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} socket_events SEC(".maps");
TELL_LAYOUT(tcp_record)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TCP_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} socket_counters SEC(".maps");

const volatile struct tcp_settings config SEC(".rodata.config");

static __always_inline struct tcp_settings get_settings(void)
{
	return config;
}

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&socket_counters, &what);

	if (counter)
		++*counter;
}

static __always_inline struct tcp_record *reserve_event(void)
{
	return bpf_ringbuf_reserve(&socket_events, sizeof(struct tcp_record), 0);
}

static __always_inline void submit_event(struct tcp_record *record)
{
	bpf_ringbuf_submit(record, 0);
}

#include "tcp_ends.h"

static __always_inline struct tcp_record *begin_failed(__u8 kind, const struct sock *sk, int error)
{
	struct tcp_record *record = begin(kind, netns_of(&sk->__sk_common));

	if (!record)
		return 0;
	record->socket = (__u64)sk;
	record->error = -error;
	read_ends(record, &sk->__sk_common);
	return record;
}

SEC("fexit/tcp_v4_connect")
int BPF_PROG(connect_ipv4, struct sock *sk, struct sockaddr___k *to, int length, int result)
{
	struct sockaddr_in address = {};
	struct tcp_record *record;

	if (!result)
		return 0;
	record = begin_failed(TCP_CONNECT_FAILED, sk, result);
	if (!record)
		return 0;
	bpf_probe_read_kernel(&address, sizeof(address), to);
	map_ipv4(record->remote_ip, address.sin_addr.s_addr);
	record->remote_port = bpf_ntohs(address.sin_port);
	record->ip_version = 4;
	record->role = TCP_ACTIVE;
	submit_event(record);
	return 0;
}

SEC("fexit/tcp_v6_connect")
int BPF_PROG(connect_ipv6, struct sock *sk, struct sockaddr___k *to, int length, int result)
{
	struct sockaddr_in6 address = {};
	struct tcp_record *record;

	if (!result)
		return 0;
	bpf_probe_read_kernel(&address, sizeof(address), to);
	if (is_mapped((const __u8 *)&address.sin6_addr))
		return 0; /* goes through tcp_v4_connect, which tells */
	record = begin_failed(TCP_CONNECT_FAILED, sk, result);
	if (!record)
		return 0;
	__builtin_memcpy(record->remote_ip, &address.sin6_addr, 16);
	record->remote_port = bpf_ntohs(address.sin6_port);
	record->ip_version = 6;
	record->role = TCP_ACTIVE;
	submit_event(record);
	return 0;
}

/* Two arguments since 6.10, four before: the result is where the kernel says. */
SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_connection, struct sock *sk)
{
	struct tcp_record *record;
	int error = 0;

	if (bpf_core_type_exists(struct proto_accept_arg)) {
		if (ctx[2])
			return 0;
		error = BPF_CORE_READ((struct proto_accept_arg *)ctx[1], err);
	} else {
		int *where;

		if (ctx[4])
			return 0;
		/* Linux 5.10 lets no program take a pointer to a number out of its arguments. */
		bpf_probe_read_kernel(&where, sizeof(where), (char *)ctx + 2 * sizeof(*ctx));
		bpf_probe_read_kernel(&error, sizeof(error), where);
	}
	if (error == -EAGAIN)
		return 0;
	record = begin_failed(TCP_ACCEPT_FAILED, sk, error);
	if (!record)
		return 0;
	record->state = record->old_state = LISTENING;
	record->role = TCP_PASSIVE;
	submit_event(record);
	return 0;
}
