// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Names the nftables table and base chain of a packet that they dropped.
 *
 * The drop probe tells of the packet; both are joined by its address. This is a function of
 * a module, run for every packet at every hook: off by default.
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

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} verdicts SEC(".maps");
TELL_LAYOUT(verdict_record)

SEC("fexit/nft_do_chain")
int BPF_PROG(nft_verdict, struct nft_pktinfo *packet, const struct nft_chain *chain,
	     unsigned int verdict)
{
	unsigned int what = verdict & VERDICT_MASK;
	struct verdict_record *record;

	if (what != NF_DROP && (what != NF_STOLEN || !(verdict >> 16)))
		return 0;
	record = bpf_ringbuf_reserve(&verdicts, sizeof(*record), 0);
	if (!record) /* the drop is told without its chain */
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->time_ns = bpf_ktime_get_boot_ns();
	record->packet = (__u64)BPF_CORE_READ(packet, skb);
	bpf_probe_read_kernel_str(record->table, NAME_BYTES, BPF_CORE_READ(chain, table, name));
	bpf_probe_read_kernel_str(record->chain, NAME_BYTES, BPF_CORE_READ(chain, name));
	bpf_ringbuf_submit(record, 0);
	return 0;
}
