/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the traffic programs do with a packet. Maps are reached by the few functions that
 * whoever includes this has defined before, as each engine has its own way to write them:
 * find_interface, find_flow, insert_flow, reserve_event, submit_event, hand_on, now,
 * get_settings.
 */
#ifndef CILIARY_TRAFFIC_H
#define CILIARY_TRAFFIC_H

#include "packet.h"

#define STORY (TCP_FIN | TCP_SYN | TCP_RST)

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
	const struct traffic_settings settings = get_settings();

	switch (p->proto) {
	case IPPROTO_UDP:
		if (!p->destination_port)
			return TUNNEL_NONE;
		if (p->destination_port == settings.vxlan_ports[0] ||
		    p->destination_port == settings.vxlan_ports[1])
			return TUNNEL_VXLAN;
		return p->destination_port == settings.geneve_port ? TUNNEL_GENEVE : TUNNEL_NONE;
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
	struct flow_event *event = reserve_event();

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
	submit_event(event);
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
	struct interface_value *interface = find_interface(&where);
	struct flow_key key = {.ifindex = skb->ifindex};
	struct flow_value *flow;
	struct packet p;
	__u32 segments = skb->gso_segs ? skb->gso_segs : 1;
	__u32 received_on = point == POINT_EGRESS ? skb->ingress_ifindex : 0;
	__u32 sample = get_settings().sample;
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
	flow = find_flow(&key);
	if (!flow) {
		struct flow_value fresh = {
			.id = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32(),
			.first_ns = bpf_ktime_get_ns(),
			.first = back,
		};

		/* another CPU may be first: then its entry is the one to count in */
		if (!insert_flow(&key, &fresh))
			interface->inserted++;
		flow = find_flow(&key);
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
	if (!cause && sample && bpf_get_prandom_u32() % sample == 0)
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
		hand_on(skb, (link_header ? 0 : 2) + point);
	return NEXT;
}

#endif
