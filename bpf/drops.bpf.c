// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Packets that the kernel dropped: tracepoint kfree_skb, one record a packet.
 *
 * What user space does not want (rules, see native_probes/drops.py) is counted
 * and not sent. Names of code addresses are worked out once an address.
 */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "drops.h"
#include "namespaces.h"
#include "record.h"

#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_8021Q 0x8100
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021AD 0x88A8
#define UNSET 0xffff /* of header offsets */
#define TAGS 2
#define EXTENSION_HEADERS 6
#define FRAMES 12 /* from the free up to the hook's caller are at most 8 */
#define SAME_DROP_NS 1000000

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} drops SEC(".maps");
TELL_LAYOUT(drop_record)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} drop_counters SEC(".maps");

/* What is not sent. User space writes it, we look it up. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct drop_rule);
	__type(value, __u8);
} drop_rules SEC(".maps");

struct site {
	char symbol[SYMBOL_BYTES];
	__u8 hook; /* enum drop_hook, of functions that call netfilter */
	__u8 reserved[7];
};

/* Names of code addresses. We fill it; nobody deletes, and old ones go by themselves. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct site);
} drop_sites SEC(".maps");

/* A packet made of several skbs is freed skb by skb, right after its first one. */
struct parts {
	__u64 expected; /* address of the next skb of the packet */
	__u64 until_ns;
};

struct scratch {
	struct parts parts;
	struct site site;
	__u64 frames[FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} drop_scratch SEC(".maps");

/* A section of its own: plain .rodata also collects string literals. */
const volatile struct {
	__u32 netfilter_reason; /* value of NETFILTER_DROP in this kernel, 0 for none */
	__u32 only_listed; /* only packets of the listed namespaces */
} config SEC(".rodata.config");

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&drop_counters, &what);

	if (counter)
		++*counter;
}

/* The first eight bytes of a symbol, as a number. */
#define PREFIX(a, b, c, d, e, f, g, h)                                                 \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 |          \
	 (__u64)(e) << 32 | (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)

/* Who calls nf_hook_slow() at which hook; the names are those of net/ipv4 and net/ipv6. */
static __always_inline __u8 hook_of(const char *symbol)
{
	switch (*(const __u64 *)symbol) {
	case PREFIX('i', 'p', '_', 'r', 'c', 'v', 0, 0):
	case PREFIX('i', 'p', '_', 'l', 'i', 's', 't', '_'): /* ip_list_rcv */
	case PREFIX('i', 'p', '_', 's', 'u', 'b', 'l', 'i'): /* ip_sublist_rcv */
	case PREFIX('i', 'p', 'v', '6', '_', 'r', 'c', 'v'):
	case PREFIX('i', 'p', 'v', '6', '_', 'l', 'i', 's'): /* ipv6_list_rcv */
	case PREFIX('i', 'p', '6', '_', 's', 'u', 'b', 'l'): /* ip6_sublist_rcv */
		return HOOK_PREROUTING;
	case PREFIX('i', 'p', '_', 'l', 'o', 'c', 'a', 'l'):
		/* ip_local_deliver against ip_local_out, whose check is __ip_local_out */
		return symbol[9] == 'd' ? HOOK_INPUT : HOOK_OUTPUT;
	case PREFIX('i', 'p', '6', '_', 'i', 'n', 'p', 'u'): /* ip6_input */
		return HOOK_INPUT;
	case PREFIX('i', 'p', '_', 'f', 'o', 'r', 'w', 'a'): /* ip_forward */
	case PREFIX('i', 'p', '6', '_', 'f', 'o', 'r', 'w'): /* ip6_forward */
		return HOOK_FORWARD;
	case PREFIX('_', '_', 'i', 'p', '_', 'l', 'o', 'c'): /* __ip_local_out */
	case PREFIX('_', '_', 'i', 'p', '6', '_', 'l', 'o'): /* __ip6_local_out */
	case PREFIX('i', 'p', '6', '_', 'x', 'm', 'i', 't'): /* ip6_xmit */
	case PREFIX('i', 'p', '6', '_', 'l', 'o', 'c', 'a'): /* ip6_local_out */
	case PREFIX('r', 'a', 'w', '_', 's', 'e', 'n', 'd'): /* raw_sendmsg, raw_send_hdrinc */
	case PREFIX('r', 'a', 'w', 'v', '6', '_', 's', 'e'): /* rawv6_sendmsg */
	case PREFIX('n', 'd', 'i', 's', 'c', '_', 's', 'e'): /* ndisc_send_skb */
		return HOOK_OUTPUT;
	case PREFIX('i', 'p', '_', 'o', 'u', 't', 'p', 'u'): /* ip_output */
	case PREFIX('i', 'p', '_', 'm', 'c', '_', 'o', 'u'): /* ip_mc_output */
	case PREFIX('i', 'p', '6', '_', 'o', 'u', 't', 'p'): /* ip6_output */
		return HOOK_POSTROUTING;
	}
	return HOOK_UNKNOWN;
}

/* The name of a code address. Stale scratch behind the name's end is overwritten first. */
static __always_inline struct site *site_of(__u64 address, struct scratch *scratch)
{
	struct site *site = bpf_map_lookup_elem(&drop_sites, &address);

	if (site)
		return site;
	site = &scratch->site;
	__builtin_memset(site, 0, sizeof(*site));
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_snprintf)) /* 5.13 */
		BPF_SNPRINTF(site->symbol, sizeof(site->symbol), "%ps", (void *)address);
	site->hook = hook_of(site->symbol);
	bpf_map_update_elem(&drop_sites, &address, site, BPF_ANY);
	return site;
}

/* The innermost caller of netfilter on the stack. */
static __always_inline __u8 hook_on_stack(void *ctx, struct scratch *scratch)
{
	long size = bpf_get_stack(ctx, scratch->frames, sizeof(scratch->frames), 0);

	for (int i = 0; i < FRAMES; i++) {
		struct site *site;

		if ((i + 1) * (long)sizeof(__u64) > size)
			break;
		site = site_of(scratch->frames[i], scratch);
		if (site->hook)
			return site->hook;
	}
	return HOOK_UNKNOWN;
}

/* Whether this skb is a later part of a packet that was told already. */
static __always_inline int is_part(struct sk_buff *skb, struct parts *parts, __u64 now)
{
	struct skb_shared_info *shared;

	if (parts->expected == (__u64)skb && now < parts->until_ns) {
		parts->expected = (__u64)skb->next;
		return 1;
	}
	shared = (void *)(skb->head + skb->end);
	parts->expected = (__u64)BPF_CORE_READ(shared, frag_list);
	parts->until_ns = now + SAME_DROP_NS;
	return 0;
}

static __always_inline int is_suppressed(__u32 reason, __u64 location)
{
	struct drop_rule rule = { .reason = reason };

	if (bpf_map_lookup_elem(&drop_rules, &rule))
		return 1;
	rule.location = location;
	return bpf_map_lookup_elem(&drop_rules, &rule) != 0;
}

static __always_inline void mapped(__u8 *address, const unsigned char *four)
{
	address[10] = address[11] = 0xff;
	bpf_probe_read_kernel(address + 12, 4, four);
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
	__u16 fragment;

	if (ip + 20 > end)
		return;
	bpf_probe_read_kernel(head, sizeof(head), ip);
	fragment = (head[6] << 8 | head[7]) & 0x3fff; /* more fragments, offset */
	drop->ip_version = 4;
	drop->protocol = head[9];
	mapped(drop->source_ip, ip + 12);
	mapped(drop->destination_ip, ip + 16);
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
	const unsigned char *head = skb->head, *end = head + skb->tail;
	const unsigned char *at = head + skb->network_header;
	__u16 mac = skb->mac_header, network = skb->network_header;
	__u16 ether_type = bpf_ntohs(skb->protocol), tci = skb->vlan_tci;
	__u8 version = 0;

	if (mac != UNSET && network >= mac + 14 && network <= mac + 14 + 4 * TAGS) {
		drop->flags |= DROP_HAS_ETHERNET;
		bpf_probe_read_kernel(drop->destination_mac, 6, head + mac);
		bpf_probe_read_kernel(drop->source_mac, 6, head + mac + 6);
	}
	if (skb->vlan_proto || tci) {
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
		at = skb->data;
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
	__u32 received_on = skb->skb_iif;

	if (received_on)
		return received_on == interface || !interface ? DROP_INGRESS : DROP_EGRESS;
	if (skb->sk || skb->protocol == bpf_htons(ETH_P_ARP))
		return DROP_EGRESS;
	return DROP_INGRESS; /* not taken from its device yet */
}

static __always_inline int on_drop(void *ctx, struct sk_buff *skb, __u64 location, __u32 reason,
				   struct sock *receiver)
{
	struct net_device *device = skb->dev;
	struct sock *sk = skb->sk ? skb->sk : receiver;
	__u64 now = bpf_ktime_get_boot_ns();
	struct skb_shared_info *shared;
	struct drop_record *drop;
	struct scratch *scratch;
	__u32 zero = 0, netns = 0, interface = 0;

	if (!skb->protocol) /* of a socket that is no network's: unix, netlink */
		return 0;
	scratch = bpf_map_lookup_elem(&drop_scratch, &zero);
	if (!scratch || is_part(skb, &scratch->parts, now))
		return 0;
	if (device) {
		interface = BPF_CORE_READ(device, ifindex);
		netns = BPF_CORE_READ(device, nd_net.net, ns.inum);
	} else if (sk) {
		netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	}
	if (is_foreign(netns, config.only_listed)) {
		count(DROPS_FOREIGN);
		return 0;
	}
	if (is_suppressed(reason, location)) {
		count(DROPS_SUPPRESSED);
		return 0;
	}
	count(DROPS_SEEN);
	drop = bpf_ringbuf_reserve(&drops, sizeof(*drop), 0);
	if (!drop) {
		count(DROPS_RING_FULL);
		return 0;
	}
	__builtin_memset(drop, 0, sizeof(*drop));
	drop->time_ns = now;
	drop->packet = (__u64)skb;
	drop->location = location;
	drop->reason = reason;
	drop->length = skb->len;
	drop->interface = interface ? interface : skb->skb_iif;
	drop->netns = netns;
	drop->direction = direction_of(skb, interface);
	shared = (void *)(skb->head + skb->end);
	drop->segments = BPF_CORE_READ(shared, gso_segs);
	if (!drop->segments)
		drop->segments = 1;
	read_packet(drop, skb);
	__builtin_memcpy(drop->symbol, site_of(location, scratch)->symbol, SYMBOL_BYTES);
	if (config.netfilter_reason && reason == config.netfilter_reason)
		drop->hook = hook_on_stack(ctx, scratch);
	bpf_ringbuf_submit(drop, 0);
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(drop_packet, struct sk_buff *skb, void *location)
{
	/* The third argument came with 5.17, and an older kernel refuses a program that reads it. */
	__u32 reason = bpf_core_type_exists(enum skb_drop_reason) ? ctx[2] : 0;

	/* The receiving socket came later; TCP has forgotten the device when it drops. */
	struct sock *receiver = 0;

	if (bpf_core_field_exists(struct trace_event_raw_kfree_skb, rx_sk))
		receiver = (struct sock *)ctx[3];
	return on_drop(ctx, skb, (__u64)location, reason, receiver);
}

char LICENSE[] SEC("license") = "GPL";
