// The rational-quadratic segment of a bin, its inverse and its derivatives, for a vector of
// elements. Compiled once per instruction set, so without a guard.
//
// With theta and rest = 1 - theta the place in a bin of sides w and h, s = h / w, t = theta rest:
//   D = s (theta^2 + rest^2) + (d0 + d1) t          y = y0 + h (s theta^2 + d0 t) / D
//   M = d1 theta^2 + 2 s t + d0 rest^2              slope = M (s / D)^2
// All are sums of positive terms.

#include "common/math.h"

namespace dgm::DGM_ISA {

// The ends of each element's bin, and its number.
struct Bin {
  Vec x0, x1, y0, y1, d0, d1, number;
};

struct Place {
  Vec theta, rest;
};

DGM_INLINE Place place_of_x(const Bin& bin, Vec x) {
  const Vec over_w = 1.0f / (bin.x1 - bin.x0);
  return {(x - bin.x0) * over_w, (bin.x1 - x) * over_w};
}

// With z = theta / rest and the shares `rise` and `fall` of the height below and above y, the
// segment is s fall z^2 + b z - s rise = 0, b = d0 fall - d1 rise. The discriminant is a sum of two
// squares, and of the two forms of the root the one that adds is taken.
DGM_INLINE Place place_of_y(const Bin& bin, Vec y) {
  const Vec h = bin.y1 - bin.y0, over_h = 1.0f / h, s = h / (bin.x1 - bin.x0);
  const Vec rise = (y - bin.y0) * over_h, fall = (bin.y1 - y) * over_h;
  const Vec b = bin.d0 * fall - bin.d1 * rise;
  const Vec root = sqrt(b * b + 4.0f * s * s * rise * fall);

  const Vec up = b >= 0.0f ? 2.0f * s * rise : root - b;
  const Vec down = b >= 0.0f ? root + b : 2.0f * s * fall;
  const Vec over = 1.0f / (up + down);
  return {up * over, down * over};
}

struct Segment {
  Vec w, h, s, t, over_D, M, q, slope;
};

DGM_INLINE Segment segment_at(const Bin& bin, Place p) {
  Segment g;
  g.w = bin.x1 - bin.x0;
  g.h = bin.y1 - bin.y0;
  g.s = g.h / g.w;
  g.t = p.theta * p.rest;
  const Vec theta2 = p.theta * p.theta, rest2 = p.rest * p.rest;
  g.over_D = 1.0f / (g.s * (theta2 + rest2) + (bin.d0 + bin.d1) * g.t);
  g.M = bin.d1 * theta2 + 2.0f * g.s * g.t + bin.d0 * rest2;
  g.q = g.s * g.over_D;
  g.slope = g.M * g.q * g.q;
  return g;
}

DGM_INLINE Vec y_of(const Bin& bin, Place p, const Segment& g) {
  return bin.y0 + g.h * ((g.s * p.theta * p.theta + bin.d0 * g.t) * g.over_D);
}

// Gradients by what a bin is made of.
struct BinGradients {
  Vec x0, x1, y0, y1, d0, d1;
};

// Derivatives of the log-slope; that by s is times s.
struct LogSlope {
  Vec by_theta, s_by_s, by_d0, by_d1;
};

DGM_INLINE LogSlope log_slope_at(const Bin& bin, Place p, const Segment& g) {
  const Vec over_M = 1.0f / g.M, sum = bin.d0 + bin.d1, lean = p.rest - p.theta;
  const Vec t_over_D = 2.0f * g.t * g.over_D;
  return {
      2.0f * ((bin.d1 * p.theta - bin.d0 * p.rest + g.s * lean) * over_M -
              (sum - 2.0f * g.s) * lean * g.over_D),
      2.0f * g.s * g.t * over_M + sum * t_over_D,
      p.rest * p.rest * over_M - t_over_D,
      p.theta * p.theta * over_M - t_over_D,
  };
}

// Gradients of grad_y y + grad_slope log(slope), x held; by_theta is that by theta.
DGM_INLINE BinGradients gradients_at(
    const Bin& bin, Place p, const Segment& g, const LogSlope& log_slope, Vec grad_y,
    Vec grad_slope, Vec by_theta) {
  const Vec theta2 = p.theta * p.theta, rest2 = p.rest * p.rest;
  const Vec share = (g.s * theta2 + bin.d0 * g.t) * g.over_D;
  const Vec others = (g.s * rest2 + bin.d1 * g.t) * g.over_D;
  const Vec pull = grad_y * g.h * g.t * g.over_D;

  const Vec s_by_s =
      pull * g.q * (bin.d1 * theta2 - bin.d0 * rest2) + grad_slope * log_slope.s_by_s;
  const Vec over_w = 1.0f / g.w, over_h = 1.0f / g.h;
  return {
      (s_by_s - p.rest * by_theta) * over_w,
      -(s_by_s + p.theta * by_theta) * over_w,
      grad_y * others - s_by_s * over_h,
      grad_y * share + s_by_s * over_h,
      pull * others + grad_slope * log_slope.by_d0,
      grad_slope * log_slope.by_d1 - pull * share,
  };
}

// Maps x (y where inverse) in its bin, or beyond the bounds.
DGM_INLINE Vec map_in_bin(const spline::Options& o, const Bin& bin, Vec given, Vec& log_slope) {
  const Vec inside = at_most(at_least(given, broadcast(-o.bound)), broadcast(o.bound));
  const VecInt beyond = absolute(given) > o.bound;
  const Place p = o.inverse ? place_of_y(bin, inside) : place_of_x(bin, inside);
  const Segment g = segment_at(bin, p);
  const Vec result = o.inverse ? bin.x0 + p.theta * g.w : y_of(bin, p, g);

  log_slope = log(g.slope);
  log_slope = o.inverse ? -log_slope : log_slope;
  if (o.bounded) {
    return result + (o.inverse ? 1.0f / g.slope : g.slope) * (given - inside);
  }
  log_slope = beyond ? Vec{} : log_slope;
  return beyond ? given : result;
}

// Returns the gradient by what is given; those by the ends of its bin go to `by_bin`.
//
// Of the inverse by the implicit function: an end of the bin moves x by -1 / slope of what it moves
// y, and what depends on x goes along.
DGM_INLINE Vec gradients_by_bin(
    const spline::Options& o, const Bin& bin, Vec given, Vec grad_result, Vec grad_log_slope,
    BinGradients& by_bin) {
  const Vec inside = at_most(at_least(given, broadcast(-o.bound)), broadcast(o.bound));
  const VecInt beyond = absolute(given) > o.bound;
  // The identity of the tails has no parameters.
  const VecInt identity = o.bounded ? VecInt{} : beyond;
  const Vec grad = identity ? Vec{} : grad_result;
  Vec grad_slope = identity ? Vec{} : grad_log_slope;

  const Place p = o.inverse ? place_of_y(bin, inside) : place_of_x(bin, inside);
  const Segment g = segment_at(bin, p);
  const LogSlope log_slope = log_slope_at(bin, p, g);
  // Beyond a bound the slope is constant.
  const Vec turn = beyond ? Vec{} : grad_slope * log_slope.by_theta / g.w;

  Vec grad_y = grad, by_theta = grad * g.slope * g.w + grad_slope * log_slope.by_theta;
  Vec by_given = grad * g.slope + turn, over = given - inside;
  if (o.inverse) {
    by_given = (grad - turn) / g.slope;
    grad_y = -by_given;
    by_theta = -grad * g.w;
    grad_slope = -grad_slope;
    over /= g.slope;
  }

  by_bin = gradients_at(bin, p, g, log_slope, grad_y, grad_slope, by_theta);
  if (o.bounded) {
    by_bin.d0 += given < 0.0f ? grad_y * over : Vec{};
    by_bin.d1 += given > 0.0f ? grad_y * over : Vec{};
  }
  return identity ? grad_result : by_given;
}

}  // namespace dgm::DGM_ISA
