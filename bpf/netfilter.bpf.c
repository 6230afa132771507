// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Says who in netfilter dropped a packet: a base chain of nftables, a table of
 * iptables-legacy, address translation, or connection tracking.
 *
 * The drop probe tells of the packet; both are joined by its address. These are functions of
 * modules, run for every packet at every hook: off by default. Each module may be missing, so
 * user space loads the programs whose functions there are.
 */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "netfilter.h"
#include "record.h"

char LICENSE[] SEC("license") = "GPL";

#define VERDICT_MASK 0xff
#define NF_DROP 0
#define NF_STOLEN 2 /* with an errno above it: freed as dropped already */
#define NESTED_NS 1000000

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} verdicts SEC(".maps");
TELL_LAYOUT(verdict_record)

/* What rules dropped last, as address translation may have called them. */
struct decided {
	__u64 packet;
	__u64 time_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct decided);
} last_decided SEC(".maps");

static __always_inline int is_drop(unsigned int verdict)
{
	unsigned int what = verdict & VERDICT_MASK;

	return what == NF_DROP || (what == NF_STOLEN && verdict >> 16);
}

/* Returns 0 when the ring is full: the drop is told without this. */
static __always_inline struct verdict_record *begin(const struct sk_buff *skb, __u8 function)
{
	struct verdict_record *record = bpf_ringbuf_reserve(&verdicts, sizeof(*record), 0);

	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->time_ns = bpf_ktime_get_boot_ns();
	record->packet = (__u64)skb;
	record->function = function;
	return record;
}

static __always_inline void submit_rule(struct verdict_record *record)
{
	__u32 zero = 0;
	struct decided *decided = bpf_map_lookup_elem(&last_decided, &zero);

	if (decided) {
		decided->packet = record->packet;
		decided->time_ns = record->time_ns;
	}
	bpf_ringbuf_submit(record, 0);
}

SEC("fexit/nft_do_chain")
int BPF_PROG(nft_verdict, struct nft_pktinfo *packet, const struct nft_chain *chain,
	     unsigned int verdict)
{
	struct verdict_record *record;

	if (!is_drop(verdict))
		return 0;
	record = begin(BPF_CORE_READ(packet, skb), VERDICT_OF_CHAIN);
	if (!record)
		return 0;
	bpf_probe_read_kernel_str(record->table, NAME_BYTES, BPF_CORE_READ(chain, table, name));
	bpf_probe_read_kernel_str(record->chain, NAME_BYTES, BPF_CORE_READ(chain, name));
	submit_rule(record);
	return 0;
}

static __always_inline int on_table(const struct xt_table *table, const struct sk_buff *skb,
				    unsigned int verdict)
{
	struct verdict_record *record;

	if (!is_drop(verdict))
		return 0;
	record = begin(skb, VERDICT_OF_TABLE);
	if (!record)
		return 0;
	BPF_CORE_READ_STR_INTO(&record->table, table, name);
	submit_rule(record);
	return 0;
}

/* The table comes first since 5.16, the packet second; before, they were third and first.
 * What tells that is younger by one release. There, the record is about no packet.
 */
static __always_inline int on_table_exit(unsigned long long *ctx)
{
	if (bpf_core_type_exists(enum skb_drop_reason))
		return on_table((void *)ctx[0], (void *)ctx[1], ctx[3]);
	return on_table((void *)ctx[2], (void *)ctx[0], ctx[3]);
}

SEC("fexit/ipt_do_table")
int ipv4_table_verdict(unsigned long long *ctx)
{
	return on_table_exit(ctx);
}

SEC("fexit/ip6t_do_table")
int ipv6_table_verdict(unsigned long long *ctx)
{
	return on_table_exit(ctx);
}

SEC("fexit/nf_nat_inet_fn")
int BPF_PROG(nat_verdict, void *hook, struct sk_buff *skb, const void *state,
	     unsigned int verdict)
{
	struct verdict_record *record;
	struct decided *decided;
	__u32 zero = 0;

	if (!is_drop(verdict))
		return 0;
	record = begin(skb, VERDICT_OF_NAT);
	if (!record)
		return 0;
	decided = bpf_map_lookup_elem(&last_decided, &zero);
	if (decided && decided->packet == record->packet &&
	    record->time_ns - decided->time_ns < NESTED_NS)
		record->time_ns = decided->time_ns;
	bpf_ringbuf_submit(record, 0);
	return 0;
}

static __always_inline int on_tracking(const struct sk_buff *skb, unsigned int verdict,
				       __u8 function)
{
	struct verdict_record *record;

	if (!is_drop(verdict))
		return 0;
	record = begin(skb, function);
	if (record)
		bpf_ringbuf_submit(record, 0);
	return 0;
}

SEC("fexit/nf_conntrack_in")
int BPF_PROG(lookup_verdict, struct sk_buff *skb, const void *state, unsigned int verdict)
{
	return on_tracking(skb, verdict, VERDICT_OF_LOOKUP);
}

SEC("fexit/__nf_conntrack_confirm")
int BPF_PROG(confirm_verdict, struct sk_buff *skb, unsigned int verdict)
{
	return on_tracking(skb, verdict, VERDICT_OF_CONFIRM);
}
