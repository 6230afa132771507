/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the drop program does with a packet. Whoever includes this has defined before, in the
 * way of its engine: count, has_rule, get_scratch, reserve_drop, submit_drop,
 * get_settings, name_places.
 */
#ifndef CILIARY_DROP_PROGRAMS_H
#define CILIARY_DROP_PROGRAMS_H

#include "kernel.h"
#include "address.h"
#include "drops.h"
#include "namespaces.h"

#ifndef CILIARY_BCC
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_8021Q 0x8100
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021AD 0x88A8
#endif
#define UNSET 0xffff /* of header offsets */
#define TAGS 2
#define EXTENSION_HEADERS 6
#define SAME_DROP_NS 1000000

/* Whether this skb is a later part of a packet that was told already. */
static __always_inline int is_part(struct sk_buff *skb, struct parts *parts, __u64 now)
{
	struct skb_shared_info *shared;

	if (parts->expected == (__u64)skb && now < parts->until_ns) {
		parts->expected = (__u64)FIELD(skb, next);
		return 1;
	}
	shared = (void *)(FIELD(skb, head) + FIELD(skb, end));
	parts->expected = (__u64)BPF_CORE_READ(shared, frag_list);
	parts->until_ns = now + SAME_DROP_NS;
	return 0;
}

static __always_inline int is_suppressed(__u32 reason, __u64 location)
{
	struct drop_rule rule = { .reason = reason };

	if (has_rule(&rule))
		return 1;
	rule.location = location;
	return has_rule(&rule);
}

/* ``end``: behind what of the packet lies in one piece; beyond it is somebody else's memory. */
static __always_inline void read_l4(struct drop_record *drop, const unsigned char *l4,
				    const unsigned char *end)
{
	__u8 head[16] = {};

	if (l4 + sizeof(head) <= end)
		bpf_probe_read_kernel(head, sizeof(head), l4);
	else if (l4 + 8 <= end) /* UDP and ICMP have no more */
		bpf_probe_read_kernel(head, 8, l4);
	switch (drop->protocol) {
	case 6:
		drop->tcp_flags = (head[12] & 1) << 8 | head[13];
		break;
	case 132:
		drop->l4_type = head[12];
		break;
	case 17:
	case 136: /* UDP-Lite */
		break;
	case 1:
	case 58:
		drop->l4_type = head[0];
		drop->l4_code = head[1];
		return;
	default:
		return;
	}
	drop->source_port = head[0] << 8 | head[1];
	drop->destination_port = head[2] << 8 | head[3];
}

static __always_inline void read_ipv4(struct drop_record *drop, const unsigned char *ip,
				      const unsigned char *end)
{
	__u8 head[12] = {};
	__be32 ends[2] = {};
	__u16 fragment;

	if (ip + 20 > end)
		return;
	bpf_probe_read_kernel(head, sizeof(head), ip);
	bpf_probe_read_kernel(ends, sizeof(ends), ip + 12);
	fragment = (head[6] << 8 | head[7]) & 0x3fff; /* more fragments, offset */
	drop->ip_version = 4;
	drop->protocol = head[9];
	map_ipv4(drop->source_ip, ends[0]);
	map_ipv4(drop->destination_ip, ends[1]);
	if (fragment)
		drop->flags |= DROP_IS_FRAGMENT;
	if (!(fragment & 0x1fff))
		read_l4(drop, ip + (head[0] & 15) * 4, end);
}

static __always_inline void read_ipv6(struct drop_record *drop, const unsigned char *ip,
				      const unsigned char *end)
{
	__u8 next = 0, head[8];
	const unsigned char *at = ip + 40;

	if (at > end)
		return;
	drop->ip_version = 6;
	bpf_probe_read_kernel(&next, 1, ip + 6);
	bpf_probe_read_kernel(drop->source_ip, 16, ip + 8);
	bpf_probe_read_kernel(drop->destination_ip, 16, ip + 24);
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60)
			break;
		if (at + sizeof(head) > end)
			return;
		bpf_probe_read_kernel(head, sizeof(head), at);
		if (next == 44) { /* fragment */
			drop->flags |= DROP_IS_FRAGMENT;
			drop->protocol = head[0];
			if ((head[2] << 8 | head[3]) & 0xfff8)
				return;
			at += 8;
		} else if (next == 51) { /* authentication counts in words, less two */
			at += (head[1] + 2) * 4;
		} else {
			at += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	drop->protocol = next;
	read_l4(drop, at, end);
}

/* Ethernet, VLAN tags, IP and layer 4, from wherever the kernel knows them to begin. */
static __always_inline void read_packet(struct drop_record *drop, struct sk_buff *skb)
{
	const unsigned char *head = FIELD(skb, head), *end = head + FIELD(skb, tail);
	const unsigned char *at = head + FIELD(skb, network_header);
	__u16 mac = FIELD(skb, mac_header), network = FIELD(skb, network_header);
	__u16 ether_type = bpf_ntohs(FIELD(skb, protocol)), tci = FIELD(skb, vlan_tci);
	__u8 version = 0;

	if (mac != UNSET && network >= mac + 14 && network <= mac + 14 + 4 * TAGS) {
		drop->flags |= DROP_HAS_ETHERNET;
		bpf_probe_read_kernel(drop->destination_mac, 6, head + mac);
		bpf_probe_read_kernel(drop->source_mac, 6, head + mac + 6);
	}
	if (FIELD(skb, vlan_proto) || tci) {
		drop->flags |= DROP_HAS_VLAN;
		drop->vlan = tci;
	}
	/* Tags that are still in the packet: some senders' network header is behind them. */
	if ((ether_type == ETH_P_8021Q || ether_type == ETH_P_8021AD) &&
	    drop->flags & DROP_HAS_ETHERNET)
		at = head + mac + 14;
	for (int i = 0; i < TAGS; i++) {
		__be16 tag[2] = {};

		if (ether_type != ETH_P_8021Q && ether_type != ETH_P_8021AD)
			break;
		bpf_probe_read_kernel(tag, sizeof(tag), at);
		if (!(drop->flags & DROP_HAS_VLAN))
			drop->vlan = bpf_ntohs(tag[0]);
		drop->flags |= DROP_HAS_VLAN;
		ether_type = bpf_ntohs(tag[1]);
		at += 4;
	}
	drop->ether_type = ether_type;
	if (ether_type != ETH_P_IP && ether_type != ETH_P_IPV6)
		return;
	bpf_probe_read_kernel(&version, 1, at);
	if (version >> 4 != (ether_type == ETH_P_IP ? 4 : 6)) {
		/* the network header is not set yet; the data begin with it */
		at = FIELD(skb, data);
		bpf_probe_read_kernel(&version, 1, at);
	}
	if (version >> 4 == 4)
		read_ipv4(drop, at, end);
	else if (version >> 4 == 6)
		read_ipv6(drop, at, end);
}

/* On its way in from an interface, or out to one. */
static __always_inline __u8 direction_of(struct sk_buff *skb, __u32 interface)
{
	__u32 received_on = FIELD(skb, skb_iif);

	if (received_on)
		return received_on == interface || !interface ? DROP_INGRESS : DROP_EGRESS;
	if (FIELD(skb, sk) || FIELD(skb, protocol) == bpf_htons(ETH_P_ARP))
		return DROP_EGRESS;
	return DROP_INGRESS; /* not taken from its device yet */
}

static __always_inline int on_drop(void *ctx, struct sk_buff *skb, __u64 location, __u32 reason,
				   struct sock *receiver)
{
	struct net_device *device = FIELD(skb, dev);
	struct sock *sk = FIELD(skb, sk) ? FIELD(skb, sk) : receiver;
	const struct drop_settings settings = get_settings();
	__u64 now = bpf_ktime_get_boot_ns();
	struct skb_shared_info *shared;
	struct drop_record *drop;
	struct scratch *scratch;
	__u32 netns = 0, interface = 0;

	if (!FIELD(skb, protocol)) /* of a socket that is no network's: unix, netlink */
		return 0;
	scratch = get_scratch();
	if (!scratch || is_part(skb, &scratch->parts, now))
		return 0;
	if (device) {
		interface = BPF_CORE_READ(device, ifindex);
		netns = BPF_CORE_READ(device, nd_net.net, ns.inum);
	} else if (sk) {
		netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	}
	if (is_foreign(netns, settings.only_listed)) {
		count(DROPS_FOREIGN);
		return 0;
	}
	if (is_suppressed(reason, location)) {
		count(DROPS_SUPPRESSED);
		return 0;
	}
	count(DROPS_SEEN);
	drop = reserve_drop();
	if (!drop) {
		count(DROPS_RING_FULL);
		return 0;
	}
	__builtin_memset(drop, 0, sizeof(*drop));
	drop->time_ns = now;
	drop->packet = (__u64)skb;
	drop->location = location;
	drop->reason = reason;
	drop->length = FIELD(skb, len);
	drop->interface = interface ? interface : FIELD(skb, skb_iif);
	drop->netns = netns;
	drop->direction = direction_of(skb, interface);
	shared = (void *)(FIELD(skb, head) + FIELD(skb, end));
	drop->segments = BPF_CORE_READ(shared, gso_segs);
	if (!drop->segments)
		drop->segments = 1;
	read_packet(drop, skb);
	name_places(ctx, drop, scratch, settings.netfilter_reason);
	submit_drop(drop);
	return 0;
}

#endif
