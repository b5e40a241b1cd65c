package broker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// silentMembers puts members out of their groups that have let their session pass and that kfake does not miss.
//
// kfake counts a member's session from an answer that reached it. One whose connection is gone when its JoinGroup or
// SyncGroup is answered is never counted: the group waits for it for a whole rebalance timeout, or is "stable" while its
// share of the partitions stands still until somebody else comes or goes. Kafka counts it all the same, and so does this.
//
// And kfake goes on counting a member that waits for such an answer, which a living one does in silence: it would be put
// out, and never be answered. Kafka lets it wait, and so does this, by a heartbeat in its name.
type silentMembers struct {
	cluster *kfake.Cluster
	log     *slog.Logger

	mu     sync.Mutex
	groups map[string]*memberGroup
}

type memberGroup struct {
	generation int32 // the newest that a member has named
	members    map[string]*member
}

type member struct {
	session time.Duration
	joined  time.Time // its last JoinGroup
	heard   time.Time // its last request, or when that was found to be answered
	waiting bool      // for the answer of a JoinGroup or SyncGroup
}

// watchMembers sees every request of a member, in the order in which kfake handles them.
func watchMembers(c *kfake.Cluster, log *slog.Logger) *silentMembers {
	s := &silentMembers{cluster: c, log: log, groups: map[string]*memberGroup{}}
	see := func(req kmsg.Request) (kmsg.Response, error, bool) {
		switch r := req.(type) {
		case *kmsg.JoinGroupRequest:
			if r.MemberID != "" {
				s.joins(r.Group, r.MemberID, time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
			}
		case *kmsg.SyncGroupRequest:
			s.syncs(r.Group, r.MemberID, r.Generation)
		case *kmsg.HeartbeatRequest:
			s.beats(r.Group, r.MemberID, r.Generation)
		}
		return nil, nil, false // and now kfake
	}
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat} {
		c.ControlKey(int16(key), see)
	}
	return s
}

func (s *silentMembers) joins(group, id string, session time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[group] == nil {
		s.groups[group] = &memberGroup{members: map[string]*member{}}
	}
	now := time.Now()
	s.groups[group].members[id] = &member{session: session, joined: now, heard: now, waiting: true}
}

func (s *silentMembers) syncs(group, id string, generation int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.member(group, id); m != nil {
		s.groups[group].word(generation)
		m.waiting, m.heard = true, time.Now()
	}
}

// beats is a member's heartbeat. One that waits sends none: what comes in its name is from run.
func (s *silentMembers) beats(group, id string, generation int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.member(group, id); m != nil && !m.waiting {
		s.groups[group].word(generation)
		m.heard = time.Now()
	}
}

// member is nil where it is not known. The caller holds mu.
func (s *silentMembers) member(group, id string) *member {
	if g := s.groups[group]; g != nil {
		return g.members[id]
	}
	return nil
}

// word is a member's in a generation. With the first one the JoinGroups that led to it have been answered. One that came
// since then has not, and cannot be told from them: see look.
func (g *memberGroup) word(generation int32) {
	if generation <= g.generation {
		return
	}
	g.generation = generation
	for _, m := range g.members {
		m.waiting, m.heard = false, time.Now()
	}
}

// run looks once a second until ctx ends.
func (s *silentMembers) run(ctx context.Context, addr string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer client.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.mu.Lock()
		names := slices.Collect(maps.Keys(s.groups))
		s.mu.Unlock()
		for _, group := range names {
			asked := time.Now()
			info := s.cluster.GroupInfo(group)
			silent, waiting := s.look(group, info, asked)
			if silent != "" {
				s.remove(ctx, client, group, silent)
			}
			for _, id := range waiting {
				s.beat(ctx, client, group, id, info.Epoch)
			}
		}
	}
}

// look tells, of a group as it was at some time after asked, the member that has let its session pass, and those that wait.
//
// Of several the first to have joined goes, and the others when it is still silent later: a member that joined after a
// generation was made and before its first word seems to be silent while it waits for the one that is, and is answered once
// that one is out.
func (s *silentMembers) look(group string, info *kfake.GroupInfo, asked time.Time) (silent string, waiting []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[group]
	present := map[string]bool{}
	if info != nil {
		g.generation = min(g.generation, info.Epoch) // whatever anybody said
		for _, m := range info.Members {
			present[m.MemberID] = true
		}
	}
	for id, m := range g.members {
		switch {
		case m.heard.After(asked): // info may not know of it yet
		case !present[id]:
			delete(g.members, id)
		case m.waiting && info.State == "Stable":
			m.waiting, m.heard = false, time.Now() // a stable group has answered everybody
		case m.waiting:
			waiting = append(waiting, id)
		case time.Since(m.heard) > m.session && (silent == "" || m.joined.Before(g.members[silent].joined)):
			silent = id
		}
	}
	if len(g.members) == 0 {
		delete(s.groups, group)
	}
	return silent, waiting
}

func (s *silentMembers) remove(ctx context.Context, client *kgo.Client, group, id string) {
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = id
	leave.Members = append(leave.Members, m)
	answer, err := leave.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(answer.ErrorCode)
	}
	if err == nil && len(answer.Members) == 1 {
		err = kerr.ErrorForCode(answer.Members[0].ErrorCode)
	}
	switch {
	case err == nil:
		s.log.InfoContext(ctx, "put a member out of its group that was silent for its session", slog.String("group", group), slog.String("member", id))
	case ctx.Err() == nil && !errors.Is(err, kerr.UnknownMemberID): // it is gone already
		s.log.WarnContext(ctx, "could not put a silent member out of its group", slog.String("group", group), slog.String("error", err.Error()))
	}
}

// beat is a heartbeat in the name of a member that waits. What is answered is of no use: it is asked again soon, or there is
// nothing to wait for any more.
func (s *silentMembers) beat(ctx context.Context, client *kgo.Client, group, id string, generation int32) {
	heartbeat := kmsg.NewPtrHeartbeatRequest()
	heartbeat.Group, heartbeat.MemberID, heartbeat.Generation = group, id, generation
	if _, err := heartbeat.RequestWith(ctx, client); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "could not let a member wait", slog.String("group", group), slog.String("error", err.Error()))
	}
}
