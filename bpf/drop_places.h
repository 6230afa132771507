/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Names of the code that dropped a packet, and the hook of netfilter at which that was. */
#ifndef CILIARY_DROP_PLACES_H
#define CILIARY_DROP_PLACES_H

#include "kernel.h"
#include <bpf/bpf_tracing.h>
#include "drops.h"

/* Names of code addresses. We fill it; nobody deletes, and old ones go by themselves. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct site);
} drop_sites SEC(".maps");

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

/* Without a reason of its own (before 5.18, then ``netfilter_reason`` is 0) by its place. */
static __always_inline int is_of_netfilter(const struct drop_record *drop, __u32 netfilter_reason)
{
	return drop->reason == netfilter_reason &&
	       (netfilter_reason || *(const __u64 *)drop->symbol ==
					    PREFIX('n', 'f', '_', 'h', 'o', 'o', 'k', '_'));
}

/* Fills symbol and, of a drop of netfilter, hook. */
static __always_inline void name_places(void *ctx, struct drop_record *drop,
					struct scratch *scratch, __u32 netfilter_reason)
{
	__builtin_memcpy(drop->symbol, site_of(drop->location, scratch)->symbol, SYMBOL_BYTES);
	if (is_of_netfilter(drop, netfilter_reason))
		drop->hook = hook_on_stack(ctx, scratch);
}

#endif
