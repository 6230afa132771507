/* SPDX-License-Identifier: Apache-2.0
 *
 * What every source here shares, and the functions that Python calls. Integers are
 * little-endian, as on every processor that an object is made for.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define EXPORT __attribute__((visibility("default")))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "columns are little-endian");
_Static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "widths");

/* Reads from anywhere in a byte array; one instruction each. */
static inline u16 load16(const u8 *at) { u16 v; __builtin_memcpy(&v, at, 2); return v; }
static inline u32 load32(const u8 *at) { u32 v; __builtin_memcpy(&v, at, 4); return v; }
static inline u64 load64(const u8 *at) { u64 v; __builtin_memcpy(&v, at, 8); return v; }
static inline u16 big16(const u8 *at) { return __builtin_bswap16(load16(at)); }

/* --- framing.c --------------------------------------------------------------------------- */

/* Where messages of `buffer` (`size` bytes) start, at most `limit` of them.
 *
 * starts[limit]: offsets of whole messages. state[0]: where the last of them ends; state[1]: 1
 * when it stopped at a length prefix that is not one of the three usual forms. Returns how many.
 */
EXPORT i64 framing_walk(const u8 *buffer, i64 size, i64 limit, i64 *starts, i64 *state);

/* The usual samples among `count` messages: Data, maybe CPU, and Type 9.
 *
 * bounds[count + 1]: where each starts, and where the last ends, in `raw`. prefix[width]: the
 * payload's type id and the step to Data. offset, length, cpu, usual[count]: filled where a
 * message is usual; elsewhere usual is 0 and the others are as they were. Returns how many are.
 */
EXPORT i64 framing_decode(const u8 *raw, i64 count, const i64 *bounds, const u8 *prefix, i64 width,
			  i64 *offset, i64 *length, i64 *cpu, u8 *usual);

/* --- intern.c ---------------------------------------------------------------------------- */

/* The row of each key of `width` words; 0 for the zero key and for the absent.
 *
 * keys[count * width]; rows[... * width] and hashes[...]: by row number; slots[1 << bits]: row
 * numbers, 0 where free. found[count]; absent[count]: which keys were not there, in order.
 * Returns how many those are.
 */
EXPORT i64 intern_find(const u64 *keys, i64 count, i64 width, const u64 *rows, const u64 *hashes,
		       const u32 *slots, i64 bits, u32 *found, i64 *absent);

/* The distinct ones among keys[absent[0 .. count]], numbered by first appearance.
 *
 * scratch[1 << bits]: zeroes, at least twice `count`. first[count]: the place in `keys` of each
 * distinct one; number[count]: which of them each absent key is. Returns how many are distinct.
 */
EXPORT i64 intern_distinct(const u64 *keys, i64 width, const i64 *absent, i64 count, u32 *scratch,
			   i64 bits, i64 *first, u32 *number);

/* Put row numbers into free slots, of which there are enough. hashes[count]: of their keys. */
EXPORT i64 intern_claim(u32 *slots, i64 bits, const u32 *numbers, const u64 *hashes, i64 count);

/* hashed[count]: the hash of each key of `width` words. */
EXPORT i64 intern_hash(const u64 *keys, i64 count, i64 width, u64 *hashed);

/* --- datapath.c -------------------------------------------------------------------------- */

/* Flows of the ordinary records among `count` of `buffer`, which are drops, captures, traces
 * and policy verdicts.
 *
 * Ordinary is a known version, an ordinary packet (parsers/packet_columns.py) and nothing that
 * no column holds, a source from before translation excepted: no trace id.
 *
 * rows[count]: which of offset[], length[] they are. verdict: a policy verdict's header length
 * (32, 40), 0 where the release is not known. tables: as parsers/datapath.py lays them out.
 * key[count * 8]: CONVERSATION; flow_class[count * 4]: FLOW_CLASS; source_port,
 * destination_port, site, reporter, rule[count]: of FlowColumns. odd[count]: which records are
 * not ordinary, in order; what the columns have there means nothing. translated[count]: which
 * ordinary ones came from another address than their packet, in order; own[count * 2]: of each
 * of them in turn, the packet's. many[0], many[1]: how many are odd, and translated. Returns how
 * many are ordinary.
 */
EXPORT i64 datapath_flows(const u8 *buffer, i64 count, const i64 *rows, const i64 *offset,
			  const i64 *length, i64 verdict, const u8 *tables, u64 *key,
			  u64 *flow_class, u16 *source_port, u16 *destination_port, u32 *site,
			  u16 *reporter, u8 *rule, i64 *odd, i64 *translated, u64 *own,
			  i64 *many);
