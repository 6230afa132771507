package main

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/cilium/api/v1/models"
	"github.com/cilium/cilium/pkg/defaults"
	monitorAgent "github.com/cilium/cilium/pkg/monitor/agent"
	"github.com/cilium/cilium/pkg/monitor/agent/consumer"
	"github.com/cilium/cilium/pkg/monitor/agent/listener"
	"github.com/cilium/cilium/pkg/monitor/payload"
)

func init() {
	commands["serve"] = command{"play a stream on a unix socket like the agent's monitor", runServe}
}

// player sends payloads to whoever is connected.
type player interface {
	start(path string) error
	stop() // closes the connections and removes the socket
	send(p *payload.Payload)
	clients() int
}

// replayAgent stands where Cilium's monitor agent stands: Cilium's own server
// accepts the connections, and hands over a listener of its own for each.
// Queueing, discarding on a full queue and encoding are therefore Cilium's.
type replayAgent struct {
	mu        sync.Mutex
	listeners map[listener.MonitorListener]struct{}
	queue     int
	cancel    context.CancelFunc
	path      string
}

func (a *replayAgent) RegisterNewListener(l listener.MonitorListener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners[l] = struct{}{}
}

func (a *replayAgent) RemoveListener(l listener.MonitorListener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.listeners, l)
	l.Close()
}

func (a *replayAgent) AttachToEventsMap(int) error                  { return nil }
func (a *replayAgent) SendEvent(int, any) error                     { return nil }
func (a *replayAgent) RegisterNewConsumer(consumer.MonitorConsumer) {}
func (a *replayAgent) RemoveConsumer(consumer.MonitorConsumer)      {}
func (a *replayAgent) State() *models.MonitorStatus                 { return nil }

// start lets Cilium's server listen at the one path it knows, then moves the
// socket to where it is wanted. A lock keeps two oracles apart, and a socket
// somebody else owns is not touched.
func (a *replayAgent) start(path string) error {
	fixed := defaults.MonitorSockPath1_2
	if err := os.MkdirAll(filepath.Dir(fixed), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "oracle-monitor.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Lstat(fixed); err == nil && path != fixed {
		return fmt.Errorf("%s exists: is there an agent on this machine?", fixed)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := monitorAgent.ServeMonitorAPI(ctx, quiet, a, a.queue); err != nil {
		cancel()
		return err
	}
	a.cancel, a.path = cancel, path
	if path == fixed {
		return nil
	}
	os.Remove(path)
	err = os.Rename(fixed, path)
	if errors.Is(err, syscall.EXDEV) { // other file system: leave it there under its own name
		own := fmt.Sprintf("%s.%d", fixed, os.Getpid())
		if err = os.Rename(fixed, own); err == nil {
			err = os.Symlink(own, path)
		}
	}
	return err
}

func (a *replayAgent) stop() {
	os.Remove(a.path)
	a.cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.listeners {
		l.Close()
	}
	clear(a.listeners)
}

func (a *replayAgent) send(p *payload.Payload) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.listeners {
		l.Enqueue(p)
	}
}

func (a *replayAgent) clients() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.listeners)
}

// directPlayer encodes straight to each connection and waits for slow ones:
// nothing is lost, and a restart can cut a message in two.
type directPlayer struct {
	mu    sync.Mutex
	conns map[net.Conn]*gob.Encoder
	ln    net.Listener
	path  string
	cut   bool
}

func (d *directPlayer) start(path string) error {
	os.Remove(path)
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	d.ln, d.path = ln, path
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns[c] = gob.NewEncoder(c)
			d.mu.Unlock()
		}
	}()
	return nil
}

func (d *directPlayer) stop() {
	d.ln.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if d.cut {
			c.Write([]byte{0x40, 0xff}) // the beginning of a 64-byte message
		}
		c.Close()
	}
	clear(d.conns)
}

func (d *directPlayer) send(p *payload.Payload) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, enc := range d.conns {
		if err := p.EncodeBinary(enc); err != nil {
			c.Close()
			delete(d.conns, c)
		}
	}
}

func (d *directPlayer) clients() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// rawPlayer sends bytes encoded beforehand in large writes: the fastest
// source, for load tests of a reader.
type rawPlayer struct {
	*directPlayer
	fresh map[net.Conn]bool
}

// recorder keeps the messages a gob encoder writes.
type recorder struct{ buf []byte }

func (r *recorder) Write(b []byte) (int, error) { r.buf = append(r.buf, b...); return len(b), nil }

// encodeOnce returns the type definition and the value messages, in chunks of
// about 64 KiB.
func encodeOnce(payloads []*payload.Payload) (def []byte, chunks [][]byte, counts []int) {
	r := &recorder{}
	enc := gob.NewEncoder(r)
	enc.Encode(&payload.Payload{}) // definition, and an all-zero value
	whole := r.buf
	r.buf = nil
	enc.Encode(&payload.Payload{})
	def = whole[:len(whole)-len(r.buf)]
	r.buf = nil
	n := 0
	for _, p := range payloads {
		p.EncodeBinary(enc)
		n++
		if len(r.buf) > 64<<10 {
			chunks, counts = append(chunks, r.buf), append(counts, n)
			r.buf, n = nil, 0
		}
	}
	if n > 0 {
		chunks, counts = append(chunks, r.buf), append(counts, n)
	}
	return def, chunks, counts
}

func (r *rawPlayer) sendBytes(def, chunk []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if !r.fresh[c] {
			r.fresh[c] = true
			c.Write(def)
		}
		if _, err := c.Write(chunk); err != nil {
			c.Close()
			delete(r.conns, c)
			delete(r.fresh, c)
		}
	}
}

func runServe(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	path := fs.String("socket", "", "unix socket to serve")
	stream := fs.String("stream", "", "stream file to play")
	seed := fs.Uint64("seed", 1, "without a file: generate")
	mix := fs.String("mix", "steady", "without a file: mix")
	count := fs.Int("count", 0, "without a file: number of payloads")
	rate := fs.String("rate", "1000", "payloads per second, or max")
	mode := fs.String("mode", "agent", "agent (Cilium's listener, discards for slow clients), direct (waits for them) or raw (pre-encoded, with --rate max)")
	queue := fs.Int("queue", 16384, "agent mode: queue per client, in payloads")
	loop := fs.Bool("loop", false, "start again at the end")
	waitFor := fs.Int("wait-clients", 1, "do not begin before this many clients are there")
	restart := fs.Int("restart-every", 0, "simulate an agent restart after this many payloads")
	gap := fs.Duration("restart-gap", 500*time.Millisecond, "time without a socket at a restart")
	cut := fs.Bool("cut", false, "direct mode: end each connection in the middle of a message")
	duration := fs.Duration("duration", 0, "stop after this long")
	linger := fs.Duration("linger", time.Second, "keep connections this long after the last payload")
	fs.Parse(args)
	var payloads []*payload.Payload
	var err error
	if *stream != "" {
		payloads, err = readStream(*stream)
	} else {
		_, payloads, err = generate(*seed, *mix, *count)
	}
	if err != nil {
		return err
	}
	perSecond := 0.0
	if *rate != "max" {
		if _, err := fmt.Sscan(*rate, &perSecond); err != nil || perSecond <= 0 {
			return fmt.Errorf("bad rate %q", *rate)
		}
	}
	direct := &directPlayer{conns: map[net.Conn]*gob.Encoder{}, cut: *cut}
	var pl player
	switch *mode {
	case "agent":
		pl = &replayAgent{listeners: map[listener.MonitorListener]struct{}{}, queue: *queue}
	case "direct":
		pl = direct
	case "raw":
		return serveRaw(&rawPlayer{directPlayer: direct, fresh: map[net.Conn]bool{}}, *path, payloads, *waitFor, *loop, *duration, *linger)
	default:
		return fmt.Errorf("unknown mode %q", *mode)
	}
	if err := pl.start(*path); err != nil {
		return err
	}
	waitClients(pl, *waitFor)
	begin, sent := time.Now(), 0
	report := func() {
		el := time.Since(begin).Seconds()
		json.NewEncoder(os.Stdout).Encode(map[string]any{"sent": sent, "seconds": el, "rate": float64(sent) / el, "clients": pl.clients()})
	}
	for {
		for _, p := range payloads {
			if perSecond > 0 {
				due := begin.Add(time.Duration(float64(sent) / perSecond * float64(time.Second)))
				if d := time.Until(due); d > 0 {
					time.Sleep(d)
				}
			}
			pl.send(p)
			sent++
			if *restart > 0 && sent%*restart == 0 {
				pl.stop()
				time.Sleep(*gap)
				if err := pl.start(*path); err != nil {
					return err
				}
				waitClients(pl, *waitFor)
			}
			if *duration > 0 && sent&0xff == 0 && time.Since(begin) > *duration {
				*loop = false
				break
			}
		}
		if !*loop {
			break
		}
	}
	report()
	time.Sleep(*linger)
	pl.stop()
	return nil
}

func waitClients(pl player, n int) {
	for pl.clients() < n {
		time.Sleep(5 * time.Millisecond)
	}
}

func serveRaw(r *rawPlayer, path string, payloads []*payload.Payload, waitFor int, loop bool, limit, linger time.Duration) error {
	def, chunks, counts := encodeOnce(payloads)
	if err := r.start(path); err != nil {
		return err
	}
	waitClients(r, waitFor)
	begin, sent := time.Now(), 0
	for again := true; again; again = loop {
		for i, c := range chunks {
			r.sendBytes(def, c)
			sent += counts[i]
			if r.clients() == 0 || limit > 0 && time.Since(begin) > limit {
				loop = false
				break
			}
		}
	}
	el := time.Since(begin).Seconds()
	json.NewEncoder(os.Stdout).Encode(map[string]any{"sent": sent, "seconds": el, "rate": float64(sent) / el})
	time.Sleep(linger)
	r.stop()
	return nil
}
