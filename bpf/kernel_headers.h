/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For the bcc engine what kernel.h is for libbpf: the types of the kernel's own headers, which
 * have to be those of the running kernel. Nothing is relocated; reads have the same names.
 */
#ifndef CILIARY_KERNEL_HEADERS_H
#define CILIARY_KERNEL_HEADERS_H

#include <linux/version.h>
#include <linux/skbuff.h>
#include <linux/netdevice.h>
#include <linux/tcp.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/request_sock.h>
#include <net/sock.h>
#include <net/tcp.h>

#define FIELD(pointer, field)                                                       \
	({                                                                           \
		typeof((pointer)->field) value;                                      \
		bpf_probe_read_kernel(&value, sizeof(value), &(pointer)->field);     \
		value;                                                               \
	})
#define FIELD_OF(pointer, first, second)                                            \
	({                                                                           \
		typeof((pointer)->first) inner = FIELD(pointer, first);              \
		FIELD(inner, second);                                                \
	})
#define CHOOSE(one, two, three, chosen, ...) chosen
#define BPF_CORE_READ(...) CHOOSE(__VA_ARGS__, FIELD_OF, FIELD)(__VA_ARGS__)
#define BPF_CORE_READ_INTO(to, pointer, field) \
	bpf_probe_read_kernel(to, sizeof(*(to)), &(pointer)->field)
#define BPF_CORE_READ_BITFIELD_PROBED(pointer, field) FIELD(pointer, field)

#define HAS_DROP_REASON (LINUX_VERSION_CODE >= KERNEL_VERSION(5, 17, 0))
#define HAS_RECEIVER (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0))
#define HAS_RETRANSMIT_ERROR (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0))
#define HAS_RESET_REASON (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0))

#endif
