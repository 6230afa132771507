/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Headers of a packet at a TC hook, by offset: a copy of what we read works for packets
 * whose headers are not in linear memory, and changes nothing in the packet.
 */
#ifndef CILIARY_PACKET_H
#define CILIARY_PACKET_H

#ifdef CILIARY_BCC /* whose headers are the kernel's own, and has the helpers built in */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#else
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#endif
#include "address.h"
#include "record.h"

#define NEXT (-1) /* TCX_NEXT and TC_ACT_UNSPEC: we only look, others go on */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define MOST_VLAN_TAGS 2
#define MOST_EXTENSIONS 6 /* RFC 8200 names seven kinds, each at most once in practice */

struct packet {
	__u8 source[16];
	__u8 destination[16];
	__u32 network; /* offset of the IP header */
	__u32 transport; /* and of the transport header */
	__u16 source_port;
	__u16 destination_port;
	__u16 ethertype; /* host order */
	__u16 vlan;
	__u8 family;
	__u8 proto;
	__u8 tcp_flags;
	__u8 kind;
};

struct vlan_tag {
	__be16 tci;
	__be16 inner;
};

struct ipv6_extension {
	__u8 next;
	__u8 length;
	__be16 fragment; /* of a fragment header: offset << 3 | more */
};

static __always_inline int has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP ||
	       proto == IPPROTO_UDPLITE || proto == IPPROTO_DCCP;
}

static __always_inline void parse_transport(struct __sk_buff *skb, struct packet *p)
{
	__u8 bytes[14]; /* up to TCP's flags */

	if (p->proto == IPPROTO_TCP &&
	    !bpf_skb_load_bytes(skb, p->transport, bytes, sizeof(bytes))) {
		p->tcp_flags = bytes[13];
	} else if (has_ports(p->proto) || p->proto == IPPROTO_ICMP ||
		   p->proto == IPPROTO_ICMPV6) {
		if (p->proto == IPPROTO_TCP)
			p->kind |= KIND_MALFORMED;
		if (bpf_skb_load_bytes(skb, p->transport, bytes, 4)) {
			p->kind |= KIND_MALFORMED;
			return;
		}
	} else {
		return;
	}
	p->source_port = bytes[0] << 8 | bytes[1];
	if (has_ports(p->proto))
		p->destination_port = bytes[2] << 8 | bytes[3];
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.ihl < 5)
		return -1;
	p->family = 4;
	p->proto = ip.protocol;
	map_ipv4(p->source, ip.saddr);
	map_ipv4(p->destination, ip.daddr);
	p->transport = at + ip.ihl * 4;
	if (ip.frag_off & bpf_htons(0x1fff))
		p->kind |= KIND_FRAGMENT;
	return 0;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return -1;
	p->family = 6;
	p->proto = ip.nexthdr;
	__builtin_memcpy(p->source, &ip.saddr, 16);
	__builtin_memcpy(p->destination, &ip.daddr, 16);
	at += sizeof(ip);
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		struct ipv6_extension extension;

		if (p->proto != IPPROTO_HOPOPTS && p->proto != IPPROTO_ROUTING &&
		    p->proto != IPPROTO_DSTOPTS && p->proto != IPPROTO_FRAGMENT &&
		    p->proto != IPPROTO_AH && p->proto != IPPROTO_MH)
			break;
		if (bpf_skb_load_bytes(skb, at, &extension, sizeof(extension))) {
			p->kind |= KIND_MALFORMED;
			break;
		}
		if (p->proto == IPPROTO_FRAGMENT) {
			at += 8;
			if (extension.fragment & bpf_htons(0xfff8))
				p->kind |= KIND_FRAGMENT;
		} else if (p->proto == IPPROTO_AH) {
			at += (extension.length + 2) * 4;
		} else {
			at += (extension.length + 1) * 8;
		}
		p->proto = extension.next;
		if (p->kind & KIND_FRAGMENT)
			break; /* what follows is payload */
	}
	p->transport = at;
	return 0;
}

/* Fills all of ``p``. ``at`` is the length of the link header, 0 for devices without one.
 * What cannot be read is marked KIND_MALFORMED and left zero; every packet is something.
 */
static __always_inline void parse_packet(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	p->ethertype = bpf_ntohs(skb->protocol);
	if (skb->vlan_present)
		p->vlan = skb->vlan_tci & 0xfff;
	for (int i = 0; i < MOST_VLAN_TAGS; i++) {
		struct vlan_tag tag;

		if (p->ethertype != ETH_P_8021Q && p->ethertype != ETH_P_8021AD)
			break;
		if (bpf_skb_load_bytes(skb, at, &tag, sizeof(tag))) {
			p->kind |= KIND_MALFORMED;
			break;
		}
		if (!p->vlan) /* the outer tag names the network */
			p->vlan = bpf_ntohs(tag.tci) & 0xfff;
		p->ethertype = bpf_ntohs(tag.inner);
		at += sizeof(tag);
	}
	p->network = at;
	if (p->ethertype == ETH_P_IP ? parse_ipv4(skb, at, p) :
	    p->ethertype == ETH_P_IPV6 ? parse_ipv6(skb, at, p) : 0)
		p->kind |= KIND_MALFORMED;
	if (!p->family)
		p->source_port = p->ethertype;
	else if (!(p->kind & KIND_FRAGMENT))
		parse_transport(skb, p);
}

#endif
