// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The traffic programs for the bcc engine, which rewrites the map operations below. The
 * engine defines CILIARY_BCC, SIZE_<map> and CILIARY_CONSTANTS (bytes of traffic_settings).
 */
#include "packet.h"

#ifndef SIZE_flows
#define SIZE_flows 65536
#endif
#ifndef SIZE_events
#define SIZE_events (1 << 20)
#endif

BPF_TABLE("lru_hash", struct flow_key, struct flow_value, flows, SIZE_flows);
BPF_TABLE("percpu_hash", struct interface_key, struct interface_value, interfaces, 4096);
BPF_RINGBUF_OUTPUT(events, SIZE_events / 4096);
BPF_PROG_ARRAY(dns_programs, 4);

static __always_inline struct traffic_settings get_settings(void)
{
	union {
		__u8 bytes[sizeof(struct traffic_settings)];
		struct traffic_settings settings;
	} constants = {.bytes = {CILIARY_CONSTANTS}};

	return constants.settings;
}

static __always_inline struct interface_value *find_interface(struct interface_key *key)
{
	return interfaces.lookup(key);
}

static __always_inline struct flow_value *find_flow(struct flow_key *key)
{
	return flows.lookup(key);
}

static __always_inline long insert_flow(struct flow_key *key, struct flow_value *value)
{
	return flows.insert(key, value);
}

static __always_inline struct flow_event *reserve_event(void)
{
	return events.ringbuf_reserve(sizeof(struct flow_event));
}

static __always_inline void submit_event(struct flow_event *event)
{
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

static __always_inline void hand_on(struct __sk_buff *skb, __u32 index)
{
	dns_programs.call(skb, index);
}

static __always_inline __u64 now(void)
{
	return bpf_ktime_get_ns();
}

#include "traffic.h"

int ciliary_tc_in(struct __sk_buff *skb)
{
	return count(skb, ETH_HLEN, POINT_INGRESS);
}

int ciliary_tc_out(struct __sk_buff *skb)
{
	return count(skb, ETH_HLEN, POINT_EGRESS);
}

int ciliary_l3_in(struct __sk_buff *skb)
{
	return count(skb, 0, POINT_INGRESS);
}

int ciliary_l3_out(struct __sk_buff *skb)
{
	return count(skb, 0, POINT_EGRESS);
}
