// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* For bcc: TCP connections over IPv4 that this machine has opened; see custom.md. */
struct opened {
	u64 time_ns;
	u32 source;
	u32 destination;
	u16 source_port;
	u16 destination_port;
	u8 protocol;
	u8 pad[3];
};

BPF_RINGBUF_OUTPUT(opened_events, 16);
BPF_PERCPU_ARRAY(opened_lost, u64, 1);

TRACEPOINT_PROBE(sock, inet_sock_set_state)
{
	struct opened *event;
	u32 zero = 0;

	if (args->newstate != 1 || args->oldstate != 2 || args->family != 2 || args->protocol != 6)
		return 0;
	event = opened_events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		u64 *lost = opened_lost.lookup(&zero);
		if (lost)
			*lost += 1;
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_boot_ns();
	__builtin_memcpy(&event->source, args->saddr, 4);
	__builtin_memcpy(&event->destination, args->daddr, 4);
	event->source_port = args->sport;
	event->destination_port = args->dport;
	event->protocol = args->protocol;
	opened_events.ringbuf_submit(event, 0);
	return 0;
}
