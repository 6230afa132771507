// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The TCP programs for the bcc engine; see traffic.bcc.c. CILIARY_CONSTANTS has the bytes of
 * tcp_settings. They are raw tracepoints, which have the same arguments without BTF.
 */
#include "kernel.h"
#include "tcp.h"

#ifndef SIZE_tcp_events
#define SIZE_tcp_events (1 << 20)
#endif
#ifndef SIZE_tcp_connections
#define SIZE_tcp_connections 65536
#endif

BPF_RINGBUF_OUTPUT(tcp_events, SIZE_tcp_events / 4096);
BPF_PERCPU_ARRAY(tcp_counters, __u64, TCP_COUNTERS);
BPF_TABLE("lru_hash", __u64, struct connection, tcp_connections, SIZE_tcp_connections);
BPF_TABLE("hash", __u32, __u8, namespaces, 8192);

static __always_inline struct tcp_settings get_settings(void)
{
	union {
		__u8 bytes[sizeof(struct tcp_settings)];
		struct tcp_settings settings;
	} constants = {.bytes = {CILIARY_CONSTANTS}};

	return constants.settings;
}

static __always_inline void count(__u32 what)
{
	tcp_counters.increment(what);
}

static __always_inline int is_listed(__u32 netns)
{
	return namespaces.lookup(&netns) != 0;
}

static __always_inline struct tcp_record *reserve_event(void)
{
	return tcp_events.ringbuf_reserve(sizeof(struct tcp_record));
}

static __always_inline void submit_event(struct tcp_record *record)
{
	tcp_events.ringbuf_submit(record, 0);
}

static __always_inline struct connection *find_connection(__u64 *socket)
{
	return tcp_connections.lookup(socket);
}

static __always_inline void put_connection(__u64 *socket, struct connection *opened)
{
	tcp_connections.update(socket, opened);
}

static __always_inline void forget_connection(__u64 *socket)
{
	tcp_connections.delete(socket);
}

#include "tcp_programs.h"

int tcp_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
	return on_retransmit((void *)ctx->args[0], (void *)ctx->args[1],
			     HAS_RETRANSMIT_ERROR ? ctx->args[2] : 0);
}

int tcp_retransmit_answer(struct bpf_raw_tracepoint_args *ctx)
{
	return on_retransmit_answer((void *)ctx->args[0], (void *)ctx->args[1]);
}

int tcp_reset_sent(struct bpf_raw_tracepoint_args *ctx)
{
	return on_reset_sent((void *)ctx->args[0], (void *)ctx->args[1],
			     HAS_RESET_REASON ? ctx->args[2] : 0);
}

int tcp_reset_received(struct bpf_raw_tracepoint_args *ctx)
{
	return on_reset_received((void *)ctx->args[0]);
}

int tcp_state_change(struct bpf_raw_tracepoint_args *ctx)
{
	return on_state_change((void *)ctx->args[0], ctx->args[1], ctx->args[2]);
}
