// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Counts every packet of a TC hook: by flow, and by interface.
 *
 * One look-up serves both directions of a flow. A packet that tells a story (the first
 * of its flow; SYN, FIN, RST) goes into a ring and is counted there; when the ring is
 * full it is counted with its flow, as all others are. So flows and events together are
 * exact, and what the flow table had no room for is the difference to the interface.
 */
#include "kernel.h"
#include "packet.h"
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

#define NEXT (-1) /* TCX_NEXT and TC_ACT_UNSPEC: we only look, others go on */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define STORY (TCP_FIN | TCP_SYN | TCP_RST)

/* A section of its own, as plain .rodata also collects what the compiler puts there. */
const volatile struct {
	__u32 sample; /* an event for one packet of so many; 1 is each, 0 none */
	__u16 vxlan_ports[2];
	__u16 geneve_port;
	__u16 pad;
} config SEC(".rodata.config");

/* Programs insert and count; user space reads, and deletes what was idle for long. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
} flows SEC(".maps");

/* User space inserts before it attaches, and deletes after it detached. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct interface_key);
	__type(value, struct interface_value);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

TELL_LAYOUT(flow_event)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct told);
} told_flows SEC(".maps"), told_interfaces SEC(".maps");

/* Programs that want DNS packets, by point (and 2 more without a link header). */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} dns_programs SEC(".maps");

/* Of the kernel's enum only what we ask about: the whole would come into the object. */
enum bpf_func_id___asked { BPF_FUNC_ktime_get_coarse_ns___asked = 160 };

static __always_inline __u64 now(void)
{
	/* 5.11; costs 19 ns where the exact clock costs 44 */
	if (bpf_core_enum_value_exists(enum bpf_func_id___asked,
				       BPF_FUNC_ktime_get_coarse_ns___asked))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

/* Any total order will do, so words are compared as they lie. */
static __always_inline int compare(const __u8 *x, const __u8 *y)
{
	const __u32 *p = (const __u32 *)x, *q = (const __u32 *)y;

	for (int i = 3; i >= 0; i--) /* the last word is what differs between IPv4 */
		if (p[i] != q[i])
			return p[i] < q[i] ? -1 : 1;
	return 0;
}

static __always_inline __u8 tunnel_of(const struct packet *p)
{
	switch (p->proto) {
	case IPPROTO_UDP:
		if (!p->destination_port)
			return TUNNEL_NONE;
		if (p->destination_port == config.vxlan_ports[0] ||
		    p->destination_port == config.vxlan_ports[1])
			return TUNNEL_VXLAN;
		return p->destination_port == config.geneve_port ? TUNNEL_GENEVE : TUNNEL_NONE;
	case IPPROTO_GRE:
		return TUNNEL_GRE;
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		return TUNNEL_IPIP;
	default:
		return TUNNEL_NONE;
	}
}

/* Returns 1 for a packet from b to a. */
static __always_inline __u32 make_key(const struct packet *p, struct flow_key *key)
{
	int order = compare(p->source, p->destination);
	__u32 back;

	if (has_ports(p->proto)) {
		back = order > 0 || (!order && p->source_port > p->destination_port);
		key->aport = back ? p->destination_port : p->source_port;
		key->bport = back ? p->source_port : p->destination_port;
	} else {
		back = order > 0;
		key->aport = p->source_port;
	}
	__builtin_memcpy(key->a, back ? p->destination : p->source, 16);
	__builtin_memcpy(key->b, back ? p->source : p->destination, 16);
	key->vlan = p->vlan;
	key->proto = p->proto;
	key->family = p->family;
	key->kind = p->kind;
	key->tunnel = tunnel_of(p);
	return back;
}

/* Returns 0 when the ring is full. */
static __always_inline int tell(const struct flow_key *key, const struct flow_value *flow,
				const struct packet *p, __u32 bytes, __u32 segments,
				__u32 back, __u32 received_on, __u8 cause)
{
	struct flow_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->time_ns = bpf_ktime_get_ns();
	event->id = flow->id;
	event->key = *key;
	event->bytes = bytes;
	event->segments = segments;
	event->received_on = received_on;
	event->back = back;
	event->tcp_flags = p->tcp_flags;
	event->cause = cause;
	event->opener = flow->opener;
	event->first = flow->first;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP); /* the reader comes by the clock */
	return 1;
}

/* Notes the packet's flags; returns why it is worth an event, or 0. */
static __always_inline __u8 note_flags(struct flow_value *flow, __u8 flags, __u32 back)
{
	__u8 seen = flow->tcp_flags[back], syn = flags & (TCP_SYN | TCP_ACK);

	if (syn == TCP_SYN) {
		if ((flow->tcp_flags[0] | flow->tcp_flags[1]) & (TCP_FIN | TCP_RST)) {
			/* the ports are used again: a new connection */
			flow->tcp_flags[0] = 0;
			flow->tcp_flags[1] = 0;
			seen = 0;
		}
		flow->opener = back ? OPENER_B : OPENER_A;
	} else if (syn == (TCP_SYN | TCP_ACK)) {
		flow->opener = back ? OPENER_A : OPENER_B;
	}
	/* plain stores: what a race loses, the next packet brings */
	if (flags & ~seen)
		flow->tcp_flags[back] = seen | flags;
	return flags & ~seen & STORY ? CAUSE_FLAGS : 0;
}

static __always_inline int count(struct __sk_buff *skb, __u32 link_header, __u32 point)
{
	struct interface_key where = {.ifindex = skb->ifindex, .point = point};
	struct interface_value *interface = bpf_map_lookup_elem(&interfaces, &where);
	struct flow_key key = {.ifindex = skb->ifindex};
	struct flow_value *flow;
	struct packet p;
	__u32 segments = skb->gso_segs ? skb->gso_segs : 1;
	__u32 received_on = point == POINT_EGRESS ? skb->ingress_ifindex : 0;
	__u32 back;
	__u8 cause = 0;

	if (!interface)
		return NEXT; /* being detached */
	interface->skbs++;
	interface->bytes += skb->len;
	interface->more_segments += segments - 1;

	parse_packet(skb, link_header, &p);
	back = make_key(&p, &key) & 1;
	key.a_leaves = point ^ back;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		struct flow_value fresh = {
			.id = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32(),
			.first_ns = bpf_ktime_get_ns(),
			.first = back,
		};

		/* another CPU may be first: then its entry is the one to count in */
		if (!bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST))
			interface->inserted++;
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow) {
			interface->not_inserted++;
			return NEXT;
		}
		cause = CAUSE_FIRST;
	}
	flow->last_ns = now();
	if (flow->received_on[back] != received_on)
		flow->received_on[back] = received_on;
	if (p.proto == IPPROTO_TCP) {
		__u8 story = note_flags(flow, p.tcp_flags, back);

		if (!cause)
			cause = story;
	}
	if (!cause && config.sample && bpf_get_prandom_u32() % config.sample == 0)
		cause = CAUSE_PACKET;
	if (cause && tell(&key, flow, &p, skb->len, segments, back, received_on, cause))
		goto counted;
	if (cause)
		interface->folded++;
	__sync_fetch_and_add(&flow->skbs[back], 1);
	__sync_fetch_and_add(&flow->bytes[back], skb->len);
	if (segments > 1)
		__sync_fetch_and_add(&flow->more_segments[back], segments - 1);
counted:
	if (p.source_port == 53 || p.destination_port == 53)
		bpf_tail_call(skb, &dns_programs, (link_header ? 0 : 2) + point);
	return NEXT;
}

SEC("tc")
int ciliary_tc_in(struct __sk_buff *skb)
{
	return count(skb, ETH_HLEN, POINT_INGRESS);
}

SEC("tc")
int ciliary_tc_out(struct __sk_buff *skb)
{
	return count(skb, ETH_HLEN, POINT_EGRESS);
}

/* Devices without a link header: tun, wireguard, IP tunnels. */
SEC("tc")
int ciliary_l3_in(struct __sk_buff *skb)
{
	return count(skb, 0, POINT_INGRESS);
}

SEC("tc")
int ciliary_l3_out(struct __sk_buff *skb)
{
	return count(skb, 0, POINT_EGRESS);
}
