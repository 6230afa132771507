/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Tracing programs see every network namespace of the machine. Where the node is only a
 * part of it, user space lists the namespaces that belong to the node.
 */
#ifndef CILIARY_NAMESPACES_H
#define CILIARY_NAMESPACES_H

#include "kernel.h"

#ifndef CILIARY_BCC /* whose main file has the map and this function in its own way */
/* Inode numbers. User space writes, programs look up. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} namespaces SEC(".maps");

static __always_inline int is_listed(__u32 netns)
{
	return bpf_map_lookup_elem(&namespaces, &netns) != 0;
}
#endif

/* Whether an event belongs to somebody else; what names no namespace does not. */
static __always_inline int is_foreign(__u32 netns, __u32 only_listed)
{
	return only_listed && netns && !is_listed(netns);
}

#endif
